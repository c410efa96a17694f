#![no_main]

#[path = "../../tests/corpus/checks.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| checks::session_table(bytes));
