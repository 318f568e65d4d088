#![no_main]

mod scratch;

use refcoco::Mask;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(instances) = refcoco::read_instances(&scratch::file_with(data)) else { return };
    for annotation in instances.annotations.values().take(8) {
        if let Ok(value) = serde_json::from_str(annotation.segmentation.get()) {
            let _ = Mask::from_segmentation(40, 30, &value);
        }
    }
});
