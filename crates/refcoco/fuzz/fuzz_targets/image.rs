#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(image) = refcoco::decode_image(data) {
        assert_eq!(image.data.len(), image.width * image.height * 3);
    }
});
