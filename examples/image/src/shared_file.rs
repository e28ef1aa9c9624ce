//! A file without a name that the process at the other end of a socket is given, too (`SCM_RIGHTS`,
//! unix(7)): it writes there what would be slow to say in text.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::cmsg_space;
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Makes a file in memory. It is gone when the last process has closed it.
pub(crate) fn unnamed() -> io::Result<File> {
    Ok(memfd_create("memory-image", MemfdFlags::CLOEXEC)?.into())
}

/// Sends `line`, and `file` with its first byte.
pub(crate) fn send(mut socket: &UnixStream, line: &[u8], file: &File) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files = [file.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&files));
    let sent = sendmsg(socket, &[IoSlice::new(line)], &mut control, SendFlags::NOSIGNAL)?;
    socket.write_all(line.get(sent..).unwrap_or_default())
}
