//! A guest's tables in arbitrary memory: long mode, PAE, 32-bit paging.

use arbitrary::{Arbitrary, Unstructured};
use pgtable::format::FirstStage;
use pgtable::{Access, Gpa};
use pgtable_x86::{Controls, KeyRegister, Levels, LongMode, LongModeFault, Pae, Paging32, Privacy};

use crate::case::{access, bit, neighbours, privacy, words};
use crate::oracle::x86_legacy::{self, Outcome};
use crate::oracle::x86_stage1::support::Image;
use crate::oracle::x86_stage1::{outcome, reference};
use crate::reading::Tree;

#[derive(Arbitrary)]
struct Header {
    flags: u16,
    access: u8,
    maxphyaddr: u8,
    privacy: u8,
    pkru: u32,
    pkrs: u32,
    gva: u64,
    bytes: u32,
}

/// Arbitrary memory as tables; one linear address and its neighbours.
///
/// # Oracles
/// The reference walker of `pgtable-x86`'s tests for translation and error code; all ways to read
/// agree, and none reads more than it may.
pub fn x86_walk(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(header) = input.arbitrary::<Header>() else { return };
    let Header { flags, .. } = header;
    let given = words(input);
    let access = access(header.access);
    let controls = Controls {
        wp: bit(flags, 0),
        smep: bit(flags, 1),
        smap: bit(flags, 2),
        ac: bit(flags, 3),
        nxe: bit(flags, 4),
        pke: bit(flags, 5),
        pks: bit(flags, 6),
        pkru: KeyRegister(header.pkru),
        pkrs: KeyRegister(header.pkrs),
        gib_pages: bit(flags, 7),
        maxphyaddr: if bit(flags, 8) { 32 + header.maxphyaddr % 21 } else { 52 },
        amd: bit(flags, 9),
        privacy: privacy(header.privacy),
        cet: bit(flags, 10),
        shadow_stack: bit(flags, 10) && bit(flags, 11),
        ..Controls::new()
    };
    // Which has no bit for private memory.
    if header.privacy >> 6 == 2 {
        let (pse, pse36) = (bit(flags, 12), bit(flags, 13));
        let controls = Controls { amd: false, privacy: Privacy::None, pse, pse36, ..controls };
        return older(&header, &controls, access, &given);
    }
    let (levels, number) = if bit(flags, 10) { (Levels::Five, 5) } else { (Levels::Four, 4) };
    let unused = if bit(flags, 11) { 0 } else { 64 - (12 + 9 * number) };
    let gva = ((header.gva << unused) as i64 >> unused) as u64;

    let image = image(&given);
    let format = LongMode::new(levels, controls);
    let inputs = neighbours(gva, &given);
    for &gva in &inputs {
        let want = reference(&image, 0, number, &controls, gva, access);
        assert_eq!(outcome(format, &image, gva, access), want, "{access} at {gva:#x}");
    }
    let root = Gpa::new(u64::from(flags >> 12) << 12);
    for root in [Gpa::new(0), root] {
        Tree { format, memory: image.memory(), root }.check(&inputs, access, header.bytes.into());
    }
}

/// The memory.
fn image(given: &[u64]) -> Image {
    let mut cycle = given.iter().copied().cycle();
    Image::new(|| cycle.next().unwrap_or(0))
}

/// PAE and 32-bit paging, against the walkers of `pgtable-x86`'s tests for these.
fn older(header: &Header, controls: &Controls, access: Access, given: &[u64]) {
    let image = image(given);
    let inputs: Vec<_> =
        neighbours(header.gva, given).iter().map(|gva| gva & 0xffff_ffff).collect();
    let bytes = header.bytes.into();
    if header.privacy & 1 == 0 {
        let read = |at| image.read(at);
        let want = |gva| x86_legacy::pae(read, 0, controls, gva, access);
        compare(Pae::new(*controls), &image, &inputs, access, want);
        Tree { format: Pae::new(*controls), memory: image.memory(), root: Gpa::new(0) }
            .check(&inputs, access, bytes);
    } else {
        let read = |at: u64| image.read(at).map(|word| (word >> (at % 8 * 8)) as u32);
        let want = |gva| x86_legacy::bits32(read, 0, controls, gva, access);
        compare(Paging32::new(*controls), &image, &inputs, access, want);
        Tree { format: Paging32::new(*controls), memory: image.memory(), root: Gpa::new(0) }
            .check(&inputs, access, bytes);
    }
}

fn compare<F: FirstStage<Fault = LongModeFault>>(
    format: F,
    image: &Image,
    inputs: &[u64],
    access: Access,
    want: impl Fn(u64) -> Outcome,
) {
    for &gva in inputs {
        let got = x86_legacy::outcome(format, image.memory(), 0, gva, access);
        assert_eq!(got, want(gva), "{access} at {gva:#x}");
    }
}
