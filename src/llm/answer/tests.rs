use super::*;

fn read(text: &str) -> Document {
    let document = Document::read(text.as_bytes()).unwrap();
    for at in 0..=text.len() {
        let (a, b) = text.as_bytes().split_at(at);
        let (mut scan, mut reader) = (Scan::default(), Reader::default());
        scan.feed(a, &mut reader);
        scan.feed(b, &mut reader);
        scan.end(&mut reader);
        assert_eq!(*reader.document(), document, "split at {at}: {text}");
    }
    document
}

#[test]
fn content_is_what_a_reader_gets() {
    for text in [
        r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}"#,
        r#"{"choices":[{"delta":{"reasoning_content":"a"}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"index":0,"function":{"name":"f","arguments":""}}]}}]}"#,
        r#"{"choices":[{"delta":{"refusal":"no"}}]}"#,
        r#"{"choices":[{"message":{"role":"assistant","content":"a","refusal":null}}]}"#,
        r#"{"choices":[{"message":{"role":"assistant","content":[{"type":"text","text":"a"}]}}]}"#,
        r#"{"choices":[{"message":{"content":null,"tool_calls":[{"id":"c","function":{"name":"f"}}]}}]}"#,
        r#"{"choices":[{"text":"a","index":0}]}"#,
        r#"{"type":"response.output_text.delta","delta":"a"}"#,
        r#"{"type":"response.function_call_arguments.delta","delta":"{"}"#,
        r#"{"output":[{"type":"message","content":[{"type":"output_text","text":"a"}]}]}"#,
        r#"{"output":[{"type":"function_call","name":"f","arguments":"{}"}]}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"a"}}"#,
        r#"{"type":"content_block_delta","delta":{"type":"thinking_delta","thinking":"a"}}"#,
        r#"{"type":"content_block_delta","delta":{"type":"input_json_delta","partial_json":"{"}}"#,
        r#"{"type":"content_block_start","content_block":{"type":"tool_use","id":"t","name":"f","input":{}}}"#,
        r#"{"type":"message","content":[{"type":"text","text":"a"}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"text":"a"}],"role":"model"}}]}"#,
        r#"{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","args":{}}}]}}]}"#,
    ] {
        let document = read(text);
        assert!(document.content && document.error.is_none(), "{text}");
    }
    for text in [
        r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
        r#"{"choices":[{"delta":{"content":null}}]}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
        r#"{"type":"message_start","message":{"role":"assistant","model":"claude","content":[]}}"#,
        r#"{"type":"ping"}"#,
        r#"{"type":"content_block_start","content_block":{"type":"text","text":""}}"#,
        r#"{"type":"response.created","response":{"status":"in_progress","output":[]}}"#,
        r#"{"type":"response.output_item.added","item":{"type":"message","content":[]}}"#,
        r#"{"candidates":[{"finishReason":"STOP"}]}"#,
        "null",
        "[]",
    ] {
        assert!(!read(text).content, "{text}");
    }
}

#[test]
fn an_error_is_an_object_or_a_text_that_is_not_empty() {
    let error = |text: &str| read(text).error;
    for text in [
        r#"{"error":null}"#,
        r#"{"error":""}"#,
        r#"{"error":false,"choices":[]}"#,
        r#"{"choices":[{"delta":{"content":"{\"error\":{}}"}}]}"#,
    ] {
        assert_eq!(error(text), None, "{text}");
    }
    let openai =
        error(r#"{"error":{"message":"m","type":"server_error","param":null,"code":"overloaded"}}"#).unwrap();
    assert_eq!((openai.code.as_deref(), openai.kind.as_deref()), (Some("overloaded"), Some("server_error")));
    let vllm = error(r#"{"error":{"object":"error","type":"BadRequestError","code":400}}"#).unwrap();
    assert_eq!(vllm.code.as_deref(), Some("400"));
    let anthropic = error(r#"{"type":"error","error":{"type":"overloaded_error","message":"m"}}"#).unwrap();
    assert_eq!(anthropic.kind.as_deref(), Some("overloaded_error"));
    let google = error(
        r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"@type":"x/google.rpc.RetryInfo","retryDelay":"46s"}]}}"#,
    )
    .unwrap();
    assert_eq!(
        (google.status.as_deref(), google.retry_delay.as_deref()),
        (Some("RESOURCE_EXHAUSTED"), Some("46s"))
    );
    let failed =
        error(r#"{"type":"response.failed","response":{"error":{"code":"server_error","message":"m"}}}"#)
            .unwrap();
    assert_eq!(failed.code.as_deref(), Some("server_error"));
    assert_eq!(error(r#"{"error":"gone"}"#).unwrap().message.as_deref(), Some("gone"));
    assert!(error(r#"{"error":{}}"#).is_some());
}

#[test]
fn usage_is_read_in_every_dialect() {
    let usage = |text: &str| read(text).usage;
    let openai = usage(
        r#"{"usage":{"prompt_tokens":10,"completion_tokens":7,"total_tokens":17,"prompt_tokens_details":{"cached_tokens":4},
            "completion_tokens_details":{"reasoning_tokens":3}}}"#,
    );
    assert_eq!(
        (openai.input, openai.cached, openai.output, openai.reasoning),
        (Some(10), Some(4), Some(7), Some(3))
    );
    assert!(!openai.input_excludes_cache && !openai.output_excludes_reasoning);
    let responses =
        usage(r#"{"type":"response.completed","response":{"usage":{"input_tokens":5,"output_tokens":6}}}"#);
    assert_eq!((responses.input, responses.output), (Some(5), Some(6)));
    let mut anthropic = usage(
        r#"{"type":"message_start","message":{"usage":{"input_tokens":3,"cache_read_input_tokens":2,"cache_creation_input_tokens":1,"output_tokens":1}}}"#,
    );
    anthropic.take(usage(r#"{"type":"message_delta","usage":{"output_tokens":9}}"#));
    let expected = (Some(3), Some(2), Some(1), Some(9), true);
    let stated = (
        anthropic.input,
        anthropic.cached,
        anthropic.cache_write,
        anthropic.output,
        anthropic.input_excludes_cache,
    );
    assert_eq!(stated, expected);
    let google = usage(
        r#"{"usageMetadata":{"promptTokenCount":8,"candidatesTokenCount":2,"thoughtsTokenCount":5,"cachedContentTokenCount":1}}"#,
    );
    assert_eq!(
        (google.input, google.cached, google.output, google.reasoning),
        (Some(8), Some(1), Some(2), Some(5))
    );
    assert!(google.output_excludes_reasoning);
    assert!(!usage(r#"{"usage":null}"#).is_stated());
    assert!(!usage(r#"{"choices":[{"message":{"content":"x"},"usage":{"prompt_tokens":1}}]}"#).is_stated());
}

#[test]
fn the_end_has_a_reason() {
    for (text, finish) in [
        (r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#, Some(Finish::Stop)),
        (r#"{"choices":[{"finish_reason":"tool_calls"}]}"#, Some(Finish::Stop)),
        (r#"{"choices":[{"finish_reason":"length"}]}"#, Some(Finish::Length)),
        (r#"{"choices":[{"finish_reason":"content_filter"}]}"#, Some(Finish::Refused)),
        (r#"{"choices":[{"finish_reason":"error"}]}"#, Some(Finish::Error)),
        (r#"{"choices":[{"finish_reason":null}]}"#, None),
        (r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#, Some(Finish::Stop)),
        (r#"{"type":"message_delta","delta":{"stop_reason":"refusal"}}"#, Some(Finish::Refused)),
        (r#"{"type":"message","stop_reason":"max_tokens"}"#, Some(Finish::Length)),
        (r#"{"candidates":[{"finishReason":"SAFETY"}]}"#, Some(Finish::Refused)),
        (r#"{"promptFeedback":{"blockReason":"OTHER"}}"#, Some(Finish::Refused)),
        (
            r#"{"type":"response.incomplete","response":{"incomplete_details":{"reason":"max_output_tokens"}}}"#,
            Some(Finish::Length),
        ),
    ] {
        assert_eq!(read(text).finish, finish, "{text}");
    }
    let empty = read(r#"{"choices":[],"model":"m"}"#);
    assert!(empty.has_choices && empty.choices_empty && empty.model.as_deref() == Some("m"));
    assert!(!read(r#"{"choices":[{}]}"#).choices_empty);
    assert_eq!(
        read(r#"{"type":"message_start","message":{"model":"claude"}}"#).model.as_deref(),
        Some("claude")
    );
    assert_eq!(Document::read(b"{"), None);
}
