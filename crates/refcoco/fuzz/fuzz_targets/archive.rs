#![no_main]

mod scratch;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    refcoco::read_whole_archive(&scratch::file_with(data));
});
