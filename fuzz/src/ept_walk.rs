//! A hypervisor's second-stage tables on x86, EPT and nested paging, in arbitrary memory.

use arbitrary::{Arbitrary, Unstructured};
use pgtable::format::Format;
use pgtable::walk::{TranslationOf, Walker};
use pgtable::{Gpa, Hpa, Stage2};
use pgtable_x86::{Ept, EptControls, EptFault, Levels, Npt, NptControls};

use crate::case::{access, bit, neighbours, words};
use crate::oracle::x86_stage2::support::Image;
use crate::oracle::x86_stage2::{Outcome, ept, npt};
use crate::reading::Tree;

#[derive(Arbitrary)]
struct Header {
    flags: u16,
    access: u8,
    maxphyaddr: u8,
    gpa: u64,
    bytes: u32,
}

/// Arbitrary memory as EPT and as NPT tables; one guest-physical address and its neighbours.
///
/// # Oracles
/// The reference walkers of `pgtable-x86`'s tests for translation, exit qualification and exit
/// info; all ways to read agree, and none reads more than it may.
pub fn ept_walk(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(header) = input.arbitrary::<Header>() else { return };
    let Header { flags, .. } = header;
    let given = words(input);
    let access = access(header.access);
    let gib_pages = bit(flags, 3);
    let maxphyaddr = if bit(flags, 4) { 32 + header.maxphyaddr % 21 } else { 52 };
    let (levels, number) = if bit(flags, 5) { (Levels::Five, 5) } else { (Levels::Four, 4) };
    let unused = if bit(flags, 6) { 0 } else { 64 - (12 + 9 * number) };
    let inputs = neighbours(header.gpa << unused >> unused, &given);
    let mut cycle = given.iter().copied().cycle();
    let image = Image::new(|| cycle.next().unwrap_or(0));
    let root = Hpa::new(u64::from(flags >> 12) << 12);

    if bit(flags, 7) {
        let controls =
            NptControls { nxe: bit(flags, 0), gib_pages, maxphyaddr, ..NptControls::new() };
        let format = Npt::new(levels, controls);
        let walker = Walker::new(format, image.memory(), Hpa::new(0));
        for &gpa in &inputs {
            let seen = walker.translate(Gpa::new(gpa), access);
            let seen =
                seen.map_or_else(|fault| Outcome::Fault(fault.arch.into_bits()), page::<Npt>);
            assert_eq!(seen, npt(&image, number, &controls, gpa, access), "{access} at {gpa:#x}");
        }
        Tree { format, memory: image.memory(), root }.check(&inputs, access, header.bytes.into());
    } else {
        let controls = EptControls {
            mode_based_execute: bit(flags, 0),
            accessed_dirty: bit(flags, 1),
            execute_only: bit(flags, 2),
            gib_pages,
            maxphyaddr,
            ..EptControls::new()
        };
        let format = Ept::new(levels, controls);
        let walker = Walker::new(format, image.memory(), Hpa::new(0));
        for &gpa in &inputs {
            let seen = match walker.translate(Gpa::new(gpa), access) {
                Ok(found) => page::<Ept>(found),
                Err(fault) => match fault.arch {
                    EptFault::Violation(violation) => Outcome::Fault(violation.into_bits()),
                    EptFault::Misconfiguration => Outcome::Misconfiguration,
                },
            };
            assert_eq!(seen, ept(&image, number, &controls, gpa, access), "{access} at {gpa:#x}");
        }
        Tree { format, memory: image.memory(), root }.check(&inputs, access, header.bytes.into());
    }
}

fn page<F: Format<Stage = Stage2>>(found: TranslationOf<F>) -> Outcome {
    Outcome::Page(found.output.get(), found.shift)
}
