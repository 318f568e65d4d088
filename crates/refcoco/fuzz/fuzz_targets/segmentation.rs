#![no_main]

use refcoco::Mask;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [width, height, text @ ..] = data else { return };
    let (width, height) = (usize::from(*width), usize::from(*height));
    // Any run-length string, and any JSON segmentation.
    if let Ok(text) = std::str::from_utf8(text) {
        if let Ok(mask) = Mask::from_rle_string(width, height, text) {
            assert_eq!(Mask::from_counts(width, height, &mask.to_counts()).as_ref(), Ok(&mask));
            assert_eq!(Mask::from_rle_string(width, height, &mask.to_rle_string()).as_ref(), Ok(&mask));
        }
        if let Ok(value) = serde_json::from_str(text)
            && let Ok(mask) = Mask::from_segmentation(width, height, &value)
        {
            assert_eq!(mask.data.len(), width * height);
            assert!(mask.data.iter().all(|&pixel| pixel <= 1));
            let _ = Mask::parts_of_segmentation(width, height, &value);
        }
    }
});
