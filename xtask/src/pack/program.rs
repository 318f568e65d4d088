//! Relocatable programs and libraries: no symbols, no RPATH.

use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use object::LittleEndian;
use object::elf::{DT_RPATH, DT_RUNPATH, DT_STRTAB, FileHeader64, PT_DYNAMIC, PT_LOAD, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};

use crate::project::run_aside;

/// Linker arguments of a packed program, which runs with the given version of glibc or a newer one.
///
/// glibc reads relative relocations in their packed form from version 2.36 on. They take 1 MB of a program otherwise.
pub(super) fn link_arguments(glibc: &str) -> &'static [&'static str] {
    let version =
        glibc.split_once('.').and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    if version >= Some((2, 36)) { &["-z,pack-relative-relocs"] } else { &[] }
}

/// Copies a program or library into a folder, stripped of symbols and of RPATH and RUNPATH, which name folders of the build machine.
pub(super) fn copy_portable(from: &Path, folder: &Path) -> Result<()> {
    let to = folder.join(from.file_name().context("a program has a name")?);
    run_aside(Command::new("strip").arg("-o").arg(&to).arg(from))
        .context("`strip` failed; it comes with the linker, in the package binutils")?;
    let shown = || to.display().to_string();
    let mut bytes = std::fs::read(&to).with_context(shown)?;
    remove_search_path(&mut bytes).with_context(shown)?;
    std::fs::write(&to, bytes).with_context(shown)?;
    make_executable(&to)
}

/// Size in bytes of an entry of the dynamic section: a tag and a value, 8 bytes each.
const ENTRY: usize = 16;

/// Removes DT_RPATH and DT_RUNPATH from the dynamic section in place. Later entries move up, the strings they named are zeroed, and
/// nothing else in the file moves.
fn remove_search_path(file: &mut [u8]) -> Result<()> {
    let (table, strings) = dynamic_section(file)?;
    let mut kept: Vec<u8> = Vec::with_capacity(table.len());
    let entries: Vec<[u8; ENTRY]> = file[table.clone()].as_chunks::<ENTRY>().0.to_vec();
    for entry in entries {
        let [tag, value] = tag_and_value(&entry);
        if [DT_RPATH, DT_RUNPATH].contains(&tag) {
            let name =
                file.get_mut(strings + value as usize..).context("a search path outside of the file")?;
            name.iter_mut().take_while(|byte| **byte != 0).for_each(|byte| *byte = 0);
        } else {
            kept.extend(entry);
        }
    }
    // DT_NULL ends the section, and is zero.
    kept.resize(table.len(), 0);
    file[table].copy_from_slice(&kept);
    Ok(())
}

/// Byte range of the dynamic section, and the file offset of its string table.
fn dynamic_section(file: &[u8]) -> Result<(Range<usize>, usize)> {
    let header = FileHeader64::<LittleEndian>::parse(file)?;
    let segments = header.program_headers(LittleEndian, file)?;
    let segment = segments.iter().find(|segment| segment.p_type(LittleEndian) == PT_DYNAMIC);
    let (start, size) = segment.context("it is linked statically")?.file_range(LittleEndian);
    let table = start as usize..(start + size) as usize;
    let entries = file.get(table.clone()).context("the dynamic section is outside of the file")?;
    let entries = entries.as_chunks::<ENTRY>().0.iter().map(tag_and_value);
    let address = entries.into_iter().find(|[tag, _]| *tag == DT_STRTAB).map(|[_, value]| value);
    let address = address.context("the dynamic section names no strings")? as u64;
    let holds = |segment: &&ProgramHeader64<LittleEndian>| {
        let (start, size) = (segment.p_vaddr(LittleEndian), segment.p_filesz(LittleEndian));
        segment.p_type(LittleEndian) == PT_LOAD && (start..start + size).contains(&address)
    };
    let segment = segments.iter().find(holds).context("the strings are outside of the file")?;
    let offset = address - segment.p_vaddr(LittleEndian) + segment.p_offset(LittleEndian);
    Ok((table, offset as usize))
}

fn tag_and_value(entry: &[u8; ENTRY]) -> [i64; 2] {
    let number = |at: usize| i64::from_le_bytes(std::array::from_fn(|byte| entry[at + byte]));
    [number(0), number(8)]
}

pub(super) fn make_executable(path: &Path) -> Result<()> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
        .with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_runs_without_its_search_path() {
        let folder = tempfile::tempdir().unwrap();
        let (source, program) = (folder.path().join("main.c"), folder.path().join("main"));
        std::fs::write(&source, "#include <stdio.h>\nint main() { puts(\"runs\"); }\n").unwrap();
        let arguments = ["-Wl,-rpath,/of/this/machine", "-o"];
        let compiled = Command::new("cc").arg(&source).args(arguments).arg(&program).status().unwrap();
        assert!(compiled.success());
        let path = b"/of/this/machine";
        let holds =
            |file: &Path| std::fs::read(file).unwrap().windows(path.len()).any(|window| window == path);
        assert!(holds(&program));
        let packed = folder.path().join("packed");
        std::fs::create_dir(&packed).unwrap();
        copy_portable(&program, &packed).unwrap();
        assert!(!holds(&packed.join("main")));
        let said = Command::new(packed.join("main")).output().unwrap();
        assert_eq!(said.stdout, b"runs\n");
    }

    #[test]
    fn packed_relocations_need_a_glibc_that_reads_them() {
        for (version, packs) in
            [("2.36", true), ("2.41", true), ("3.0", true), ("2.35", false), ("2.9", false)]
        {
            assert_eq!(!link_arguments(version).is_empty(), packs, "{version}");
        }
        assert!(link_arguments("musl").is_empty());
    }

    #[test]
    fn what_is_no_program_is_refused() {
        assert!(remove_search_path(&mut b"#!/bin/sh".to_vec()).is_err());
    }
}
