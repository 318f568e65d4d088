//! Reads a safetensors file tensor by tensor; `.pth`, TorchScript and sharded files open the same way.
//! `cargo run --release --package weight-files --example quickstart`
#![allow(clippy::print_stdout, missing_docs)]

use weight_files::WeightFile;

fn main() -> anyhow::Result<()> {
    // Writes a safetensors file: the header's length, the header, the values.
    let header =
        r#"{"norm.weight":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"__metadata__":{"epoch":"3"}}"#;
    let values = [1.0_f32, 2.0, 3.0, 4.5].map(f32::to_le_bytes).concat();
    let bytes = [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &values].concat();
    let path =
        std::env::temp_dir().join(format!("weight-files-quickstart-{}.safetensors", std::process::id()));
    std::fs::write(&path, bytes)?;

    let mut file = WeightFile::open(&path)?;
    println!("weight-files: {} tensor(s), epoch {:?}", file.tensors().count(), file.metadata("epoch"));
    let names: Vec<String> = file.tensors().map(|(name, _)| name.to_owned()).collect();
    for name in names {
        let info = file.info(&name).map(|info| format!("{:?} {:?}", info.element, info.shape));
        let sum: f32 =
            file.read(&name)?.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).sum();
        println!("{name}: {}, sum {sum}", info.unwrap_or_default());
    }
    std::fs::remove_file(&path)?;
    Ok(())
}
