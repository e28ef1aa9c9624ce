//! Answers of a QEMU, and what is asked of it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::IoSliceMut;
use std::mem::MaybeUninit;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::*;

const MTREE: &str = "FlatView #0\r\n AS \"I/O\", root: io\r\n Root memory region: io\r\n  \
    0000000000000000-0000000000000007 (prio 0, i/o): dma-chan\r\n\r\nFlatView #1\r\n AS \
    \"cpu-memory-0\", root: system\r\n AS \"memory\", root: system\r\n Root memory region: \
    system\r\n  0000000000000000-00000000000bffff (prio 0, ram): pc.ram KVM\r\n  \
    00000000000a0000-00000000000bffff (prio 1, i/o): vga-lowmem\r\n  \
    00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios @0000000000000010 KVM\r\n  \
    0000000100000000-000000017fffffff (prio 0, ram): pc.ram @0000000080000000 KVM\r\n\r\n\
    FlatView #2\r\n AS \"other\", root: other\r\n  \
    0000000000000000-0000000000000fff (prio 0, ram): other.ram\r\n";
const CPUS: &str = "\r\nCPU#0\r\nRAX=ffffffff9ac66c80 RBX=0000000000000000\r\n\
    RIP=ffffffff9ac6702b RFL=00000246 [---Z-P-] CPL=0 II=0 A20=1 SMM=0 HLT=1\r\n\
    CS =0010 0000000000000000 ffffffff 00af9b00 DPL=0 CS64 [-RA]\r\n\
    CR0=80050033 CR2=00007f1234 CR3=000000000210a000 CR4=000006f0\r\n\
    EFER=0000000000000d01\r\n\r\nCPU#1\r\nEIP=0000fff0 EFL=00000002\r\n\
    CS =f000 ffff0000 0000ffff 00009b00\r\nCR0=60000010 CR2=00000000 CR3=00000000 CR4=00000000\r\n\
    EFER=0000000000000000\r\n";

#[test]
fn what_the_monitor_says() {
    let want = [(0, 0xc_0000), (0xfffc_0000, 0x4_0000), (0x1_0000_0000, 0x8000_0000)];
    assert_eq!(ram(MTREE), want);
    let [first, second] = registers(CPUS)[..] else { panic!("{:?}", registers(CPUS)) };
    assert_eq!((first.cr3, first.cr4, first.efer), (0x210_a000, 0x6f0, Some(0xd01)));
    assert_eq!((first.rflags, first.cs, first.wide), (Some(0x246), Some(0x10), true));
    assert_eq!((second.cr0, second.wide), (0x6000_0010, false));
    let two = "0000000000001000: 0x12 0x34\r\n0000000000001002: 0xff\r\n";
    assert_eq!(bytes(two), Some(vec![0x12, 0x34, 0xff]));
    for no in ["Cannot access memory", "0: 12", "0: 0x123"] {
        assert_eq!(bytes(no), None, "{no}");
    }
}

/// The answers of a QEMU, one after the other, an event among them.
fn answers(page: &str, running: bool) -> Vec<u8> {
    let texts = [
        json!({ "QMP": { "version": {}, "capabilities": [] } }),
        json!({ "return": {} }),
        json!({ "return": { "arch": "x86_64" } }),
        json!({ "event": "RESUME" }),
        json!({ "return": { "status": "x", "running": running } }),
        json!({ "return": CPUS }),
        json!({ "return": MTREE }),
        json!({ "return": page }),
    ];
    texts.iter().flat_map(|text| format!("{text}\r\n").into_bytes()).collect()
}

#[test]
fn a_machine_is_read_where_it_has_memory() {
    for running in [false, true] {
        let (answers, mut sent) = (answers("0000000000002000: 0x12 0x34", running), Vec::new());
        let image = Image::open_qmp(&answers[..], &mut sent).unwrap();
        assert_eq!((image.form(), image.machine()), (Form::Qmp, Some(62)));
        assert_eq!((image.notes().x86.len(), image.bytes()), (2, 0x8010_0000));
        assert_eq!(image.warnings().len(), usize::from(running));
        let mut buffer = [0; 2];
        assert!(image.read(0xc_0000, &mut buffer).is_err(), "a device");
        image.read(0x2000, &mut buffer).unwrap();
        assert_eq!(buffer, [0x12, 0x34]);
        assert!(image.read(0x2000, &mut buffer).is_err(), "it has gone");
        drop(image);
        let sent = String::from_utf8(sent).unwrap();
        assert!(sent.contains("xp /2bx 0x2000"), "{sent}");
        assert!(!sent.contains("stop") && !sent.contains("cont"), "nothing is changed");
    }
}

/// A QEMU at the other end of a socket: it copies memory into the file that it was given, or
/// refuses to; says what it was asked.
fn qemu(socket: &UnixStream, copies: bool) -> Vec<String> {
    let mut all = answers("0000000000002000: 0x12 0x34", false);
    let at = all.windows(6).rposition(|it| it == b"return").unwrap();
    let text = all.split_off(all[..at].iter().rposition(|it| *it == b'\n').unwrap() + 1);
    (&*socket).write_all(&all).unwrap();
    let (mut asked, mut given) = (Vec::new(), None);
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut line = [0; 1 << 12];
        let mut buffers = [IoSliceMut::new(&mut line)];
        let got = recvmsg(socket, &mut buffers, &mut control, RecvFlags::empty()).unwrap();
        if got.bytes == 0 {
            return asked;
        }
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut files) = message {
                given = files.next().map(File::from);
            }
        }
        for line in String::from_utf8(line[..got.bytes].to_vec()).unwrap().lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let command = line["execute"].as_str().unwrap().to_owned();
            let answer = match command.as_str() {
                "add-fd" => json!({ "return": { "fdset-id": 3, "fd": 17 } }).to_string(),
                "pmemsave" if !copies => json!({ "error": {} }).to_string(),
                "pmemsave" => {
                    let arguments = &line["arguments"];
                    assert_eq!(arguments["filename"], "/proc/self/fd/17");
                    let bytes = vec![0x5a; arguments["size"].as_u64().unwrap() as usize];
                    given.as_ref().unwrap().write_all_at(&bytes, 0).unwrap();
                    json!({ "return": {} }).to_string()
                }
                "remove-fd" => {
                    assert_eq!(line["arguments"], json!({ "fdset-id": 3, "fd": 17 }));
                    json!({ "return": {} }).to_string()
                }
                "human-monitor-command" if line.to_string().contains("xp /") => {
                    String::from_utf8(text.clone()).unwrap()
                }
                _ => String::new(),
            };
            asked.push(command);
            if !answer.is_empty() {
                (&*socket).write_all(format!("{}\n", answer.trim()).as_bytes()).unwrap();
            }
        }
    }
}

#[test]
fn memory_comes_by_way_of_a_file() {
    for copies in [true, false] {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let qemu = std::thread::spawn(move || qemu(&theirs, copies));
        let image = Image::open_qmp_unix(&ours).unwrap();
        let mut page = [0; 4096];
        let read = image.read(0x2000, &mut page);
        let mut two = [0; 2];
        image.read(0x2000, &mut two).unwrap();
        assert_eq!(two, [0x12, 0x34], "few bytes come as text");
        drop(image);
        drop(ours);
        let asked = qemu.join().unwrap();
        let count = |command: &str| asked.iter().filter(|it| *it == command).count();
        assert_eq!([count("add-fd"), count("pmemsave"), count("remove-fd")], [1; 3]);
        if copies {
            read.unwrap();
            assert_eq!(page, [0x5a; 4096]);
        } else {
            assert!(read.is_err(), "the text that comes then is none of a page");
            assert_eq!(asked.last().map(String::as_str), Some("human-monitor-command"));
        }
    }
}

#[test]
fn others_are_refused() {
    let no = |bytes: &[u8]| Image::open_qmp(bytes, Vec::new()).unwrap_err().to_string();
    assert!(no(b"{\"hello\":1}\n").contains("greets as something else"));
    assert!(no(b"").contains("cannot be read") && no(b"SSH-2.0\n").contains("cannot be read"));
    let mut all = answers("", false);
    all.truncate(all.len() / 2);
    no(&all);
}
