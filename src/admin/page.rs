//! The live page: its files, joined into one document for each request.

const HTML: &str = include_str!("page/page.html");
const CSS: &str = include_str!("page/page.css");
/// One script: `charts.js` begins it, with `"use strict"` for both files.
const JS: &str = concat!(include_str!("page/charts.js"), include_str!("page/page.js"));

/// The content security policy of an answer that is no page: nothing is allowed.
pub const NO_PAGE: &str = "default-src 'none'; frame-ancestors 'none'";

/// Returns the whole page. A browser runs only a script element with this nonce, so no script in the data can run.
pub fn document(nonce: &str) -> String {
    let html = HTML.replacen("<script", &["<script nonce=\"", nonce, "\""].concat(), 1);
    html.replacen("/*css*/", CSS, 1).replacen("/*js*/", JS, 1)
}

/// Returns the content security policy of the page: its own script and style, requests to its own origin, nothing else.
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
    fn the_page_is_one_document_with_one_script() {
        let page = document("abc");
        assert!(!page.contains("/*css*/") && !page.contains("/*js*/"), "a marker is left");
        assert!(page.contains(CSS) && page.contains(JS));
        assert_eq!(page.matches("<script nonce=\"abc\"").count(), 1);
        assert_eq!(HTML.matches("<script").count(), 1, "another script would not run");
        assert!(page.len() < 40_000, "{} bytes", page.len());
        assert!(policy("abc").starts_with("default-src 'none'; script-src 'nonce-abc'; "));
    }

    #[test]
    fn the_page_loads_nothing_from_elsewhere() {
        let page = document("abc");
        for outside in ["src=\"http", "href=\"http", "url(http", "@import", "fetch(\"http"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }
}
