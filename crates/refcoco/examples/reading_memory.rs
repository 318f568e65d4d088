//! Time and peak memory of opening annotation files of RefCOCO's size: 20,000 images, 200,000 annotations, 50,000 refs,
//! 142,000 sentences. `cargo run --release --package refcoco --example reading_memory`
//!
//! This program first writes the files. A second process then opens them, so that its peak memory is that of reading.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use refcoco::Dataset;

const IMAGES: i64 = 20_000;
const ANNOTATIONS: i64 = 200_000;
const REFS: i64 = 50_000;
const SENTENCES: i64 = 142_000;

fn main() -> Result<(), Box<dyn Error>> {
    if let Some(root) = std::env::args().nth(1) {
        return open(Path::new(&root));
    }
    let root = tempfile::tempdir()?;
    let folder = root.path().join("refcoco");
    std::fs::create_dir_all(&folder)?;
    std::fs::create_dir_all(root.path().join("train2014"))?;
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    instances(&folder.join("instances.json"), &mut rng)?;
    std::fs::write(folder.join("refs(unc).p"), refs(&mut rng))?;
    let status = Command::new(std::env::current_exe()?).arg(root.path()).status()?;
    if status.success() { Ok(()) } else { Err("reading failed".into()) }
}

fn open(root: &Path) -> Result<(), Box<dyn Error>> {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let size =
        |name: &str| Ok::<_, std::io::Error>(std::fs::metadata(root.join("refcoco").join(name))?.len());
    let (json, pickle) = (size("instances.json")?, size("refs(unc).p")?);
    let before = memory("VmRSS")?;
    let started = Instant::now();
    let dataset = Dataset::open("refcoco", root)?;
    let seconds = started.elapsed().as_secs_f64();
    let (peak, held) = (memory("VmHWM")?, memory("VmRSS")?);
    println!("{} refs, {} annotations", dataset.refs.len(), dataset.instances.annotations.len());
    println!("instances.json {:.0} MB, refs {:.0} MB", megabytes(json), megabytes(pickle));
    println!(
        "opened in {seconds:.2} s; peak memory {:.0} MB, {:.2} x the files; held afterwards {:.0} MB",
        megabytes(peak - before),
        (peak - before) as f64 / (json + pickle) as f64,
        megabytes(held - before)
    );
    Ok(())
}

/// A memory figure of this process from `/proc/self/status`, in bytes.
fn memory(key: &str) -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such figure")?;
    let kilobytes: u64 = line.trim_matches([':', ' ', '\t']).trim_end_matches(" kB").trim().parse()?;
    Ok(1024 * kilobytes)
}

fn file_name(image: i64) -> String {
    format!("COCO_train2014_{image:012}.jpg")
}

/// Writes records with COCO's fields and one or two polygons of 10 to 60 corners.
fn instances(path: &Path, rng: &mut ChaCha8Rng) -> Result<(), Box<dyn Error>> {
    let mut file = BufWriter::new(File::create(path)?);
    write!(file, "{{\"info\": {{}}, \"images\": [")?;
    for image in 0..IMAGES {
        let comma = if image > 0 { ", " } else { "" };
        write!(
            file,
            "{comma}{{\"license\": 1, \"file_name\": \"{}\", \"coco_url\": \"http://mscoco.org/images/{image}\", \
             \"height\": 480, \"width\": 640, \"date_captured\": \"2013-11-17 02:30:54\", \"id\": {image}}}",
            file_name(image)
        )?;
    }
    write!(file, "], \"annotations\": [")?;
    for annotation in 0..ANNOTATIONS {
        let comma = if annotation > 0 { ", " } else { "" };
        write!(file, "{comma}{{\"segmentation\": [")?;
        for part in 0..rng.random_range(1..3) {
            write!(file, "{}[0.0, 0.0", if part > 0 { ", " } else { "" })?;
            for _ in 0..rng.random_range(10..60) {
                write!(file, ", {:.2}, {:.2}", rng.random_range(0.0..640.0), rng.random_range(0.0..480.0))?;
            }
            write!(file, "]")?;
        }
        write!(
            file,
            "], \"area\": 702.1, \"iscrowd\": 0, \"image_id\": {}, \"bbox\": [473.07, 395.93, 38.65, 28.67], \
             \"category_id\": {}, \"id\": {annotation}}}",
            annotation % IMAGES,
            annotation % 80
        )?;
    }
    write!(file, "], \"categories\": []}}")?;
    Ok(file.flush()?)
}

fn refs(rng: &mut ChaCha8Rng) -> Vec<u8> {
    let words = ["left", "man", "in", "the", "blue", "shirt", "second", "zebra", "from", "right"];
    let mut writer = safe_pickle::Writer::new();
    writer.list(|list| {
        for ref_id in 0..REFS {
            let sentences = ref_id * SENTENCES / REFS..(ref_id + 1) * SENTENCES / REFS;
            list.dict(|reference| {
                reference.key("ref_id").int(ref_id);
                reference.key("ann_id").int(ref_id);
                reference.key("image_id").int(ref_id % IMAGES);
                reference.key("category_id").int(ref_id % 80);
                reference.key("split").text("train");
                reference.key("file_name").text(&file_name(ref_id % IMAGES));
                reference.key("sent_ids").list(|ids| {
                    sentences.clone().for_each(|id| {
                        ids.int(id);
                    });
                });
                reference.key("sentences").list(|list| {
                    for id in sentences {
                        let n = rng.random_range(1..8);
                        let tokens: Vec<&str> =
                            (0..n).map(|_| words[rng.random_range(0..words.len())]).collect();
                        list.dict(|sentence| {
                            sentence.key("tokens").list(|list| {
                                tokens.iter().for_each(|token| {
                                    list.text(token);
                                });
                            });
                            sentence.key("raw").text(&tokens.join(" "));
                            sentence.key("sent_id").int(id);
                            sentence.key("sent").text(&tokens.join(" "));
                        });
                    }
                });
            });
        }
    });
    writer.finish()
}
