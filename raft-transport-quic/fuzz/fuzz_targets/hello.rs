#![no_main]
//! The hello, as a stream from a stranger with a certificate would bring it: refused or understood, and then the same bytes again, but
//! for what a later version added.

use libfuzzer_sys::fuzz_target;

#[allow(dead_code, reason = "only the decoder is of interest here")]
#[path = "../../src/fault.rs"]
mod fault;
#[allow(dead_code, reason = "only the decoder is of interest here")]
#[path = "../../src/hello.rs"]
mod hello;

use hello::{BODY_BYTES, HEADER_BYTES, Hello};

fuzz_target!(|stream: &[u8]| {
    let Some((header, rest)) = stream.split_first_chunk() else { return };
    let Ok(length) = Hello::body_bytes(*header) else { return };
    let Some(body) = rest.get(..length) else { return };
    let Ok(hello) = Hello::decode(body) else { return };
    let again = hello.encode();
    let said = body.len().min(BODY_BYTES);
    assert_eq!(again[HEADER_BYTES..][..said], body[..said]);
    let _in_range_or_not = hello.check_answer();
});
