#![no_main]

mod scratch;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = refcoco::read_grefs(&scratch::file_with(data));
});
