//! Files that hold no memory as it is, by their first bytes: refused by name, so that none is
//! taken for raw memory.

use crate::error::ImageError;

const DISK: &str = "dump the guest's memory, not its disk";
const UNPACK: &str = "unpack it first";
const QCOW2: &str = "dump the guest's memory, not its disk; of a snapshot in it (`savevm`): start QEMU \
    as it was, with `-S -loadvm NAME`, then use its `dump-guest-memory`";
const STREAM: &str = "start QEMU as it was, with `-S -incoming file:FILE`, then use its \
    `dump-guest-memory`";
const SAVED: &str = "restore it with `virsh restore --paused`, then use `virsh dump --memory-only`";
const WINDOWS: &str = "ask for a raw or an ELF image of the machine";
const LINUX: &str = "make an ELF core or a kdump-compressed file of it with crash or makedumpfile";

/// First bytes, the form, what to do.
const FOREIGN: &[(&[u8], &str, &str)] = &[
    (b"\x1f\x8b", "a gzip file", UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file", UNPACK),
    (b"\xfd7zXZ\0", "an xz file", UNPACK),
    (b"BZh", "a bzip2 file", UNPACK),
    (b"\x04\x22\x4d\x18", "an lz4 file", UNPACK),
    (b"\xff\x06\0\0sNaPpY", "a snappy file", UNPACK),
    (b"PK\x03\x04", "a zip file", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z file", UNPACK),
    (b"LibvirtQemudSave", "a guest that libvirt saved", SAVED),
    (b"LibvirtQemudPart", "a guest that libvirt saved, in part", SAVED),
    (b"QEVM", "a QEMU migration stream", STREAM),
    (b"LinuxGuestRecord", "a guest that Xen saved", "dump it with `xl dump-core`"),
    (b"UniqueSuspend", "a guest that Xen saved", "dump it with `xl dump-core`"),
    (
        b"\x7fVirtualBox SavedState",
        "a saved VirtualBox machine",
        "use `VBoxManage debugvm dumpvmcore`",
    ),
    (b"QFI\xfb", "a qcow2 disk", QCOW2),
    (b"KDMV", "a VMDK disk", DISK),
    (b"# Disk Descriptor", "a VMDK disk's description", DISK),
    (b"vhdxfile", "a VHDX disk", DISK),
    (b"conectix", "a VHD disk", DISK),
    (b"<<< ", "a VirtualBox disk", DISK),
    (b"EVF\x09\x0d\x0a\xff\0", "an EnCase image", "export it as raw"),
    (b"EVF2", "an EnCase image", "export it as raw"),
    (b"PAGEDU64", "a Windows crash dump", WINDOWS),
    (b"PAGEDUMP", "a Windows crash dump of 32 bits", WINDOWS),
    (b"MDMP", "a Windows minidump", WINDOWS),
    (b"HIBR", "a Windows hibernation file", WINDOWS),
    (b"hibr", "a Windows hibernation file", WINDOWS),
    (b"WAKE", "a Windows hibernation file", WINDOWS),
    (b"wake", "a Windows hibernation file", WINDOWS),
    (b"RSTR", "a Windows hibernation file", WINDOWS),
    (b"DISKDUMP", "a diskdump of an old Linux", LINUX),
    (b"\xed\x23\x8f\x61\x73\x01\x19\xa8", "an LKCD dump", LINUX),
    (b"\xa8\x19\x01\x73\x61\x8f\x23\xfd", "an s390 dump", LINUX),
    (b"\xcf\xfa\xed\xfe", "a Mach-O file", "make an ELF core or a raw image"),
    (b"\xce\xfa\xed\xfe", "a Mach-O file", "make an ELF core or a raw image"),
];

/// Refuses what is known to be something else.
pub(crate) fn refuse(first: &[u8]) -> Result<(), ImageError> {
    match FOREIGN.iter().find(|(magic, ..)| first.starts_with(magic)) {
        Some((_, form, advice)) => Err(ImageError::Foreign { form, advice }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_refused_by_its_name() {
        for (magic, form, _) in FOREIGN {
            let error = refuse(&[magic, &[0; 64][..]].concat()).map_err(|error| error.to_string());
            assert!(error.is_err_and(|error| error.contains(form)), "{form}");
        }
        assert!(refuse(&[0; 32]).is_ok() && refuse(b"").is_ok());
    }
}
