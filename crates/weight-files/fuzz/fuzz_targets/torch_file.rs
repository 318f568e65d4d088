#![no_main]

mod scratch;

libfuzzer_sys::fuzz_target!(|data: &[u8]| scratch::read_all(data, "pth"));
