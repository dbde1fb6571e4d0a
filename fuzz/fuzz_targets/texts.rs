//! Any body, reply or piece of a stream: its texts are contents of JSON strings in it, in order, and each decodes to what
//! serde_json makes of it.
#![no_main]

use bytes::Bytes;
use wire::openai::{Endpoint, Texts};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let body = Bytes::copy_from_slice(data);
    for texts in [
        Texts::of_request(&Endpoint::Responses, body.clone()),
        Texts::of_reply(body.clone()),
        Texts::of_events(body.clone()),
    ]
    .into_iter()
    .flatten()
    {
        let mut behind = 0;
        for text in texts.list() {
            let range = text.range();
            assert!(range.start > behind && range.start < range.end && range.end < data.len());
            behind = range.end;
            // A lone surrogate has no text for serde_json.
            if let Ok(told) = serde_json::from_slice::<String>(&data[range.start - 1..=range.end]) {
                assert_eq!(texts.decoded(text), told);
            }
        }
    }
});
