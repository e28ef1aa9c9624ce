//! ELF cores with sections, as Xen writes them.

use memory_image::{Form, Image};

use crate::{Order, PAGE, check, page};

/// An ELF core of Xen: sections, and pages by their frames.
fn xen(frames: &[u64], paravirtual: bool) -> Vec<u8> {
    let names = b"\0.shstrtab\0.xen_pages\0.xen_pfn\0.xen_p2m\0.xen_prstatus\0";
    let place =
        |name: &str| names.windows(name.len()).position(|it| it == name.as_bytes()).unwrap() as u64;
    let mut context = vec![0; 5168];
    for (n, value) in [(0, 0x8005_0033_u64), (3, 0x1234_5000), (4, 0x20)] {
        context[4984 + n * 8..][..8].copy_from_slice(&value.to_le_bytes());
    }
    let table: Vec<u8> = frames
        .iter()
        .flat_map(|frame| if paravirtual { vec![7, *frame] } else { vec![*frame] })
        .flat_map(u64::to_le_bytes)
        .collect();
    let pages: Vec<u8> = frames.iter().flat_map(|frame| page(*frame)).collect();
    let list = if paravirtual { ".xen_p2m" } else { ".xen_pfn" };
    let sections: [(&str, &[u8], u64); 4] = [
        (".shstrtab", names, 0),
        (".xen_prstatus", &context, 0),
        (list, &table, 0),
        (".xen_pages", &pages, PAGE as u64),
    ];
    let order = Order { big: false };
    let mut file = vec![0; 64 + 64 * (sections.len() + 1)];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    let fields = [(16, 2, 4), (18, 2, 62), (40, 8, 64), (58, 2, 64), (60, 2, 5), (62, 2, 1)];
    for (at, size, value) in fields {
        order.put(&mut file, at, size, value);
    }
    for (n, (name, bytes, entry)) in sections.into_iter().enumerate() {
        let header = 64 * (n + 2);
        let offset = file.len() as u64;
        for (at, size, value) in
            [(0, 4, place(name)), (24, 8, offset), (32, 8, bytes.len() as u64), (56, 8, entry)]
        {
            order.put(&mut file, header + at, size, value);
        }
        file.extend(bytes);
    }
    file
}

#[test]
fn xens_cores_have_sections() {
    let frames: Vec<u64> = (3..20).chain(500..510).chain([1 << 22]).collect();
    for paravirtual in [false, true] {
        let file = xen(&frames, paravirtual);
        let image = Image::open(&file[..], 0).unwrap();
        assert_eq!((image.form(), image.machine()), (Form::XenCore, Some(62)));
        check(&image, &frames, &[], &[0, 20, 510]);
        assert_eq!((image.notes().cpus, image.notes().x86[0].cr3), (1, 0x1234_5000));
        for length in (0..file.len()).step_by(2003) {
            let _ = Image::open(&file[..length], 0);
        }
    }
}
