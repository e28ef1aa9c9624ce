//! Where an image's bytes come from: a file, or bytes in memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes that can be read at any place.
///
/// Reading, not mapping: a file that is cut short while it is looked at gives an error, and not a
/// signal.
pub trait Source {
    /// How many bytes there are.
    ///
    /// # Errors
    /// The system's.
    fn size(&self) -> io::Result<u64>;

    /// Reads from `offset` on until `buffer` is full or the source ends; returns how many bytes
    /// that were.
    ///
    /// # Errors
    /// The system's.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;

    /// The first place from `offset` on that is not a hole, as far as the source knows of holes;
    /// `None` if there is none.
    fn next_data(&self, offset: u64) -> Option<u64> {
        Some(offset)
    }
}

/// Reads from `offset` on into all of `buffer`; false if the source ends before.
pub(crate) fn read_exact(source: &dyn Source, offset: u64, buffer: &mut [u8]) -> io::Result<bool> {
    Ok(source.read_at(offset, buffer)? == buffer.len())
}

impl Source for File {
    fn size(&self) -> io::Result<u64> {
        // A block device has no length in its metadata.
        match io::Seek::seek(&mut &*self, io::SeekFrom::End(0)) {
            // A file without an end: the memory of a process.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(u64::MAX),
            other => other,
        }
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match FileExt::read_at(self, &mut buffer[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // No file but the memory of a process reaches so far.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput && offset >> 63 != 0 => {
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn next_data(&self, offset: u64) -> Option<u64> {
        use std::os::fd::AsRawFd;
        let from = libc::off_t::try_from(offset).ok()?;
        // SAFETY: lseek touches no memory, and the descriptor is open as long as `self` lives.
        let at = unsafe { libc::lseek(self.as_raw_fd(), from, libc::SEEK_DATA) };
        if at >= 0 {
            return u64::try_from(at).ok();
        }
        // ENXIO: nothing but a hole from here on. Anything else: this file system does not know.
        if io::Error::last_os_error().raw_os_error() == Some(libc::ENXIO) {
            None
        } else {
            Some(offset)
        }
    }
}

impl Source for &[u8] {
    fn size(&self) -> io::Result<u64> {
        Ok((*self).len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest =
            usize::try_from(offset).ok().and_then(|offset| self.get(offset..)).unwrap_or_default();
        let bytes = rest.len().min(buffer.len());
        buffer[..bytes].copy_from_slice(&rest[..bytes]);
        Ok(bytes)
    }
}
