//! A kernel's memory at its own addresses, read through its tables.

use std::fmt;

use memory_image::{Image, Unreadable};

use crate::space::Space;

/// The memory of a kernel.
pub(crate) struct KernelMemory<'i> {
    image: &'i Image<'i>,
    space: &'i Space<'i>,
    /// Words are big-endian.
    pub big: bool,
    /// Pointers have 32 bits.
    pub narrow: bool,
}

/// An address of which nothing is known.
#[derive(Debug)]
pub(crate) struct Lost {
    /// The address.
    pub address: u64,
    why: String,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}: {}", self.address, self.why)
    }
}

impl<'i> KernelMemory<'i> {
    pub(crate) fn new(image: &'i Image<'i>, space: &'i Space<'i>, narrow: bool) -> Self {
        Self { image, space, big: false, narrow }
    }

    /// Where `address` is.
    pub(crate) fn physical(&self, address: u64) -> Result<u64, Lost> {
        self.page(address).map(|(physical, _)| physical)
    }

    /// Where `address` is, and for how many bytes that holds.
    fn page(&self, address: u64) -> Result<(u64, u64), Lost> {
        let range = self.space.translate(address, None);
        let size = range.size.filter(|size| size.is_power_of_two()).unwrap_or(4096);
        let room = (size - 1 - (address & (size - 1))).saturating_add(1);
        match range.pa {
            Some(physical) => Ok((physical, room)),
            None => Err(Lost { address, why: range.fault.unwrap_or_default() }),
        }
    }

    /// Reads all of `buffer`.
    pub(crate) fn read(&self, address: u64, buffer: &mut [u8]) -> Result<(), Lost> {
        let mut done = 0;
        while done < buffer.len() {
            let here = address.wrapping_add(done as u64);
            let (physical, room) = self.page(here)?;
            let bytes = room.min((buffer.len() - done) as u64) as usize;
            let read = self.image.read(physical, &mut buffer[done..done + bytes]);
            read.map_err(|why| {
                let missing = match &why {
                    Unreadable::Missing { address, .. } => address.saturating_sub(physical),
                    _ => 0,
                };
                Lost { address: here.wrapping_add(missing), why: format!("unknown: {why}") }
            })?;
            done += bytes;
        }
        Ok(())
    }

    /// The `bytes` bytes from `address` on, or as many of them as can be read; at least one.
    pub(crate) fn as_much(&self, address: u64, bytes: u64) -> Result<Vec<u8>, Lost> {
        let mut buffer = vec![0; bytes as usize];
        match self.read(address, &mut buffer) {
            Ok(()) => Ok(buffer),
            Err(lost) => {
                let there = lost.address.wrapping_sub(address).min(bytes) as usize;
                buffer.truncate(there);
                if buffer.is_empty() {
                    return Err(lost);
                }
                self.read(address, &mut buffer).map(|()| buffer)
            }
        }
    }

    fn bytes<const N: usize>(&self, address: u64) -> Result<[u8; N], Lost> {
        let mut bytes = [0; N];
        self.read(address, &mut bytes)?;
        if self.big {
            bytes.reverse();
        }
        Ok(bytes)
    }

    pub(crate) fn u16(&self, address: u64) -> Result<u16, Lost> {
        self.bytes(address).map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&self, address: u64) -> Result<u32, Lost> {
        self.bytes(address).map(u32::from_le_bytes)
    }

    /// A pointer, or another `unsigned long`.
    pub(crate) fn word(&self, address: u64) -> Result<u64, Lost> {
        if self.narrow {
            self.u32(address).map(u64::from)
        } else {
            self.bytes(address).map(u64::from_le_bytes)
        }
    }

    pub(crate) fn pointer_bytes(&self) -> u64 {
        if self.narrow { 4 } else { 8 }
    }
}
