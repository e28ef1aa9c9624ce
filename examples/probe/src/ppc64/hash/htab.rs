//! A VM's table through KVM's file descriptor: read into a table of ours, and written.

use std::error::Error;
use std::fs::File;
use std::io::{self, Read, Write};

use kvm_ppc::VmFd;
use pgtable_ppc64::hash::{HptOrder, Pass, StreamReader, chunks, load};
use pgtable_ppc64::kvm::{KVM_GET_HTAB_WRITE, PpcMmu, kvm_get_htab_fd};

use super::model::{Contents, Table, contents, table};

/// How much is read at once; a pass over a table takes several reads.
const BUFFER: usize = 20_000;

/// What a VM's table holds, kept up to date by incremental reads.
pub struct Mirror {
    stream: File,
    table: Table,
}

impl Mirror {
    /// Nothing is read yet.
    pub fn new(vm: &VmFd, order: HptOrder) -> Result<Self, Box<dyn Error>> {
        Ok(Self { stream: vm.get_htab_fd(&kvm_get_htab_fd::default())?, table: table(order)? })
    }

    /// Reads whatever changed since the last time, everything at first. Returns it as it came.
    pub fn update(&mut self) -> Result<Vec<u8>, Box<dyn Error>> {
        let mut all = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let bytes = self.stream.read(&mut buffer)?;
            if bytes == 0 {
                load(&self.table, &all)?;
                return Ok(all);
            }
            all.extend_from_slice(&buffer[..bytes]);
        }
    }

    /// What it holds.
    pub fn contents(&self) -> Contents {
        contents(&self.table)
    }
}

/// Writes a stream into a VM's table, one chunk at a time.
pub fn write(vm: &VmFd, stream: &[u8]) -> Result<(), Box<dyn Error>> {
    match offer(vm, stream)? {
        None => Ok(()),
        Some((index, error)) => Err(format!("entries from {index:#x} on: {error}").into()),
    }
}

/// The same, up to the first chunk that KVM refuses: returns where that begins, and why. KVM has
/// taken the entries before the one that it refuses.
pub fn offer(vm: &VmFd, stream: &[u8]) -> Result<Option<(u32, io::Error)>, Box<dyn Error>> {
    let mut file = vm.get_htab_fd(&kvm_get_htab_fd {
        flags: KVM_GET_HTAB_WRITE,
        ..kvm_get_htab_fd::default()
    })?;
    for chunk in chunks(stream) {
        let chunk = chunk?;
        match file.write(chunk.bytes) {
            Ok(written) if written == chunk.bytes.len() => {}
            Ok(written) => {
                let index = chunk.index;
                return Err(
                    format!("of the chunk at {index:#x}, KVM took {written} bytes only").into()
                );
            }
            Err(error) => return Ok(Some((chunk.index, error))),
        }
    }
    Ok(None)
}

/// A table of ours, as a stream.
pub fn stream_of(table: &Table) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut reader = StreamReader::new(0, Pass::First, false);
    let mut all = Vec::new();
    let mut buffer = vec![0; BUFFER];
    while reader.pass() == Pass::First {
        let bytes = reader.read(table, &mut buffer)?;
        all.extend_from_slice(&buffer[..bytes]);
    }
    Ok(all)
}
