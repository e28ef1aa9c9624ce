//! A guest that leaves one host and goes on on another: its table, as the stream that KVM writes
//! there and reads here. (Its memory is the same on all hosts: zero, but for its code.)
//!
//! A host whose own pages are smaller refuses the stream: it backs memory with its own pages, and
//! no guest's page of memory may be larger than its backing (`KVM_PPC_PAGE_SIZES_REAL`). So `write`
//! ends with `EIO` at the first entry of such a page, while the guest's host with large pages took
//! it (Linux `kvm_htab_write`, `kvmppc_do_h_enter`). A VMM whose guests are to go to such hosts
//! offers them 4-KiB pages only (`ibm,segment-page-sizes`; QEMU: `cap-hpt-max-page-size=4k`). The
//! refusal is predicted here; then the guest goes on without those entries.

use std::error::Error;
use std::fs;
use std::io;
use std::path::Path;

use pgtable::{Access, Gva};
use pgtable_ppc64::hash::{Hcall, HptOrder, HpteR, PageSize, PageSizes, chunks};

use super::differs;
use super::htab::{self, Mirror};
use super::layout::{DATA, DEVICES, ORDER, PLACES};
use super::model::Model;
use super::stand::{self, Stand, Tried};
use super::step::Call;
use crate::ppc64::otherwise::Otherwise;
use crate::report::{Ended, Report};

/// The largest table that a guest of ours gets, as a logarithm of its bytes.
const LARGEST: u64 = ORDER + 2;
/// `EIO` (Linux `asm-generic/errno-base.h`).
const EIO: i32 = 5;

/// Where a chunk begins that is refused, and the OS's error.
type RefusedChunk = (u32, Option<i32>);

/// What a guest takes along.
struct Luggage {
    order: HptOrder,
    stream: Vec<u8>,
}

impl Luggage {
    /// As a file: the order in a byte, then the stream.
    fn to_bytes(&self) -> Vec<u8> {
        [&[self.order.get()], &self.stream[..]].concat()
    }

    fn of_bytes(bytes: &[u8]) -> Result<Self, Box<dyn Error>> {
        let (&order, stream) = bytes.split_first().ok_or("the file of a guest is empty")?;
        let order = HptOrder::new(order.into()).filter(|order| u64::from(order.get()) <= LARGEST);
        Ok(Self {
            order: order.ok_or("the file of a guest names no size of a table")?,
            stream: stream.to_vec(),
        })
    }
}

/// Fills the table with entries of every segment and page size, for memory and for devices, and
/// uses some: with reads, and with writes.
fn pack(stand: &mut Stand, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let pages = PLACES.iter().flat_map(|place| place.numbers().map(move |number| (place, number)));
    for (turn, (place, number)) in pages.enumerate() {
        let page = place.page(number);
        let of_base = PageSizes::ALL.into_iter().filter(|sizes| sizes.base() == page.base);
        let sizes = of_base.cycle().nth(turn).ok_or("a page size that no entry has")?;
        let (start, bytes) = DATA[turn % DATA.len()];
        let real = match turn % 7 {
            0 => DEVICES[turn % DEVICES.len()],
            _ => start + turn as u64 * 0x1_1000 % bytes,
        };
        let real = real >> sizes.actual().shift() << sizes.actual().shift();
        let r = HpteR::from_bits(real).with_sizes(sizes).with_protection(2).with_m(true);
        let secondary = turn % 3 == 0;
        let v = page.v().with_l(sizes.lp().is_some()).with_h(secondary);
        let group = stand.model().table().order().group(page.hash(), secondary) << 3;
        if stand.model().table().find(&page)?.is_none() {
            let arguments = [0, group, v.into_bits(), r.into_bits()];
            let tried = stand.call(&Call::new(Hcall::Enter.number(), arguments))?;
            tell("entries to take along", Some(tried), report);
        }
        let access = [Access::READ, Access::WRITE];
        if let Some(&access) = access.get(turn % 4) {
            let tried = stand.plain(place.address(number), access)?;
            tell("uses of them", tried, report);
        }
    }
    Ok(())
}

fn tell(kind: &'static str, tried: Option<Tried>, report: &mut Report) {
    let Some(Tried { ended, differences }) = tried else { return };
    let mismatch = differs("", &differences);
    report.case(kind, ended, mismatch.as_deref());
}

/// Writes the file with which the guest goes on elsewhere.
pub fn leave(stand: &mut Stand, file: &Path, report: &mut Report) -> Result<(), Box<dyn Error>> {
    pack(stand, report)?;
    let order = stand.model().table().order();
    let stream = Mirror::new(stand.guest.vm(), order)?.update()?;
    report.fact("leaves", format!("{} bytes of table", stream.len()));
    Ok(fs::write(file, Luggage { order, stream }.to_bytes())?)
}

/// A stand with a guest that comes from another host with `file`: all that it brings is looked at.
pub fn arrive(
    file: &Path,
    backing: PageSize,
    otherwise: Otherwise,
    report: &mut Report,
) -> Result<Stand, Box<dyn Error>> {
    let Luggage { order, stream } = Luggage::of_bytes(&fs::read(file)?)?;
    let model = Model::arrived(order, &stream, backing)?;
    let entries = model.entries();
    let refused = model.refused()?;
    let memory = stand::memory()?;
    let seen = htab::offer(stand::guest(&memory, order)?.vm(), &stream)?;
    let seen = seen.map(|(index, error)| (index, error.raw_os_error()));
    let expected = first_refused(&stream, &refused)?;
    let mismatch = (expected != seen).then(|| {
        format!("  differs   refused chunk, error: expected {expected:x?}, seen {seen:x?}")
    });
    let ended = if refused.is_empty() { Ended::Done } else { Ended::Refused };
    report.case("a stream from another host", ended, mismatch.as_deref());
    report.fact("arrives", format!("{entries} entries"));
    if let Some((_, Some(error))) = seen {
        let error = io::Error::from_raw_os_error(error);
        let why = format!("pages of {} entries are larger than the host's", refused.len());
        report.fact("KVM refuses", format!("{why}: {error}; they stay behind"));
    }
    model.leave_behind(&refused)?;
    let mut stand = Stand::of(model, memory, otherwise)?;
    look(&mut stand, report)?;
    Ok(stand)
}

/// Where the chunk begins that KVM must refuse, and with what, if it must refuse one.
fn first_refused(stream: &[u8], refused: &[u64]) -> Result<Option<RefusedChunk>, Box<dyn Error>> {
    for chunk in chunks(stream) {
        let chunk = chunk?;
        let first = u64::from(chunk.index);
        let places = first..first + chunk.entries.len() as u64;
        if refused.iter().any(|ptex| places.contains(ptex)) {
            return Ok(Some((chunk.index, Some(EIO))));
        }
    }
    Ok(None)
}

/// Compares the whole table, and accesses each page that has an entry in it.
fn look(stand: &mut Stand, report: &mut Report) -> Result<(), Box<dyn Error>> {
    let found = stand.compare_tables()?;
    let mismatch = differs("", &found);
    report.case("whole table, read back", Ended::Done, mismatch.as_deref());
    let table = stand.model().table();
    let places: Vec<_> = table.entries(0).map(|(ptex, _)| ptex).collect();
    for ptex in places {
        let page = stand.model().page(ptex).filter(|_| !stand.model().is_kept(ptex));
        let Some(page) = page else { continue };
        let Some(place) = PLACES.iter().find(|place| place.has(&page)) else { continue };
        let address = Gva::new(place.start + page.offset);
        tell("pages that arrived", stand.plain(address, Access::READ)?, report);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn luggage_is_read_as_it_was_packed_and_no_other() {
        let packed = Luggage { order: HptOrder::MIN, stream: vec![1, 2, 3] }.to_bytes();
        let read = Luggage::of_bytes(&packed).expect("as it was packed");
        assert_eq!((read.order, read.stream), (HptOrder::MIN, vec![1, 2, 3]));
        for bytes in [&[][..], &[0], &[17], &[21], &[47], &[255, 0]] {
            assert!(Luggage::of_bytes(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn the_first_chunk_with_such_an_entry_is_refused() {
        let entry = [0; 16];
        let chunk = |index: u32, valid: u16| {
            let mut bytes = index.to_ne_bytes().to_vec();
            bytes.extend(valid.to_ne_bytes());
            bytes.extend(0_u16.to_ne_bytes());
            bytes.extend(entry.repeat(valid.into()));
            bytes
        };
        let stream = [chunk(8, 2), chunk(32, 1)].concat();
        for (refused, expected) in [
            (&[][..], None),
            (&[10], None),
            (&[9], Some((8, Some(EIO)))),
            (&[32, 9], Some((8, Some(EIO)))),
            (&[32], Some((32, Some(EIO)))),
        ] {
            assert_eq!(first_refused(&stream, refused).expect("a stream"), expected, "{refused:?}");
        }
        assert!(first_refused(&stream[..9], &[]).is_err());
    }
}
