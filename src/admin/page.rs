//! The live page: files that are put together into one document when it is asked for.

const HTML: &str = include_str!("page/page.html");
const CSS: &str = include_str!("page/page.css");
/// One script: `charts.js` begins it, with `"use strict"` for both files.
const JS: &str = concat!(include_str!("page/charts.js"), include_str!("page/page.js"));

/// What a browser may do with an answer that is no page: nothing.
pub const NO_PAGE: &str = "default-src 'none'; frame-ancestors 'none'";

/// The whole page. Only a script element with this nonce will run, so nothing that data could bring into the page can.
pub fn document(nonce: &str) -> String {
    let html = HTML.replacen("<script", &["<script nonce=\"", nonce, "\""].concat(), 1);
    html.replacen("/*css*/", CSS, 1).replacen("/*js*/", JS, 1)
}

/// What a browser may do with an answer: run the page's own script, show its own style, ask its own origin, and no more.
pub fn policy(nonce: &str) -> String {
    [
        "default-src 'none'; script-src 'nonce-",
        nonce,
        "'; style-src 'unsafe-inline'; img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_one_document_with_one_script_that_may_run() {
        let page = document("abc");
        assert!(!page.contains("/*css*/") && !page.contains("/*js*/"), "a marker is left");
        assert!(page.contains(CSS) && page.contains(JS));
        assert_eq!(page.matches("<script nonce=\"abc\"").count(), 1);
        assert_eq!(HTML.matches("<script").count(), 1, "another script would not run");
        assert!(page.len() < 40_000, "{} bytes", page.len());
        assert!(policy("abc").starts_with("default-src 'none'; script-src 'nonce-abc'; "));
    }

    #[test]
    fn the_page_asks_nobody_else() {
        let page = document("abc");
        for outside in ["src=\"http", "href=\"http", "url(http", "@import", "fetch(\"http"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
