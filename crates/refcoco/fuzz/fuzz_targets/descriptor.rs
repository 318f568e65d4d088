#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = refcoco::Descriptor::parse(text);
});
