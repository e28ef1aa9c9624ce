//! The emulated host’s root file system: a cpio archive (format “newc”, uncompressed) that the
//! kernel unpacks into memory.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use cpio::newc::{self, Builder, ModeFileType};

/// The files of the archive by path, without a leading slash.
pub struct Initramfs {
    /// Sorted by path, so that a folder comes before what is in it.
    entries: BTreeMap<String, Entry>,
}

enum Entry {
    Folder,
    File {
        mode: u32,
        content: Vec<u8>,
    },
    /// A character device with its major and minor number.
    Device(u32, u32),
}

impl Initramfs {
    /// An archive that holds nothing.
    pub fn new() -> Self {
        Self { entries: BTreeMap::new() }
    }

    /// Adds `/dev/console`: the kernel opens it as init’s standard input and output, before
    /// anything is mounted. Its device number is 5:1 (Linux
    /// `Documentation/admin-guide/devices.txt`).
    pub fn console(&mut self) {
        self.add("dev/console", Entry::Device(5, 1));
    }

    /// Adds a program.
    pub fn executable(&mut self, path: &str, content: Vec<u8>) {
        self.add(path, Entry::File { mode: 0o755, content });
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, content: Vec<u8>) {
        self.add(path, Entry::File { mode: 0o644, content });
    }

    /// Adds an entry and the folders that lead to it.
    fn add(&mut self, path: &str, entry: Entry) {
        for (end, _) in path.match_indices('/') {
            self.entries.entry(path[..end].to_owned()).or_insert(Entry::Folder);
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The archive’s bytes.
    pub fn archive(&self) -> Result<Vec<u8>> {
        let mut archive = Vec::new();
        for (ino, (path, entry)) in (1..).zip(&self.entries) {
            append(&mut archive, Builder::new(path).ino(ino), entry)
                .with_context(|| format!("adding /{path} to the initramfs"))?;
        }
        newc::trailer(&mut archive)?;
        Ok(archive)
    }
}

fn append(archive: &mut Vec<u8>, header: Builder, entry: &Entry) -> Result<()> {
    let (header, content): (_, &[u8]) = match entry {
        Entry::Folder => (header.mode(0o755).set_mode_file_type(ModeFileType::Directory), &[]),
        Entry::File { mode, content } => {
            (header.mode(*mode).set_mode_file_type(ModeFileType::Regular), content)
        }
        Entry::Device(major, minor) => {
            let header = header.mode(0o600).set_mode_file_type(ModeFileType::Char);
            (header.rdev_major(*major).rdev_minor(*minor), &[])
        }
    };
    let mut writer = header.write(archive, u32::try_from(content.len())?);
    std::io::copy(&mut &content[..], &mut writer)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn archive_holds_folders_files_and_the_console() -> Result<()> {
        let mut root = Initramfs::new();
        root.console();
        root.executable("init", b"#!/bin/busybox sh\n".to_vec());
        root.file("modules/kvm.ko", vec![0x7f; 5]);

        let archive = root.archive()?;
        let mut rest: &[u8] = &archive;
        let mut found = Vec::new();
        loop {
            let mut reader = newc::Reader::new(rest)?;
            let entry = reader.entry().clone();
            if entry.is_trailer() {
                break;
            }
            let mut content = Vec::new();
            reader.read_to_end(&mut content)?;
            found.push((entry.name().to_owned(), entry.mode(), content.len()));
            if entry.name() == "dev/console" {
                assert_eq!((entry.rdev_major(), entry.rdev_minor()), (5, 1));
            }
            rest = reader.finish()?;
        }
        let expected = [
            ("dev", 0o040_755, 0),
            ("dev/console", 0o020_600, 0),
            ("init", 0o100_755, 18),
            ("modules", 0o040_755, 0),
            ("modules/kvm.ko", 0o100_644, 5),
        ];
        let expected = expected.map(|(name, mode, size)| (name.to_owned(), mode, size));
        assert_eq!(found, expected);
        Ok(())
    }
}
