//! The program brings its own OpenMP functions (`openmp-pool`). libtorch must use no others: a function of GNU's library would know nothing
//! of the regions that run here.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::path::Path;

use object::read::elf::ElfFile64;
use object::{Object, ObjectSymbol};

fn openmp_symbols(file: &Path, defined: bool) -> BTreeSet<String> {
    let bytes = std::fs::read(file).unwrap();
    let elf = ElfFile64::<object::Endianness>::parse(bytes.as_slice()).unwrap();
    elf.dynamic_symbols()
        .filter(|symbol| symbol.is_definition() == defined)
        .filter_map(|symbol| symbol.name().ok().map(str::to_owned))
        .filter(|name| name.starts_with("GOMP_") || name.starts_with("omp_"))
        .collect()
}

#[test]
fn libtorch_uses_only_what_the_program_has() {
    let libtorch = std::env::var_os("LIBTORCH").expect("cargo sets it");
    let used = openmp_symbols(&Path::new(&libtorch).join("lib/libtorch_cpu.so"), false);
    let own = openmp_symbols(Path::new(env!("CARGO_BIN_EXE_talent")), true);
    assert!(used.contains("GOMP_parallel"), "{used:?}");
    let missing: Vec<_> = used.difference(&own).collect();
    assert!(missing.is_empty(), "{missing:?}");
}
