//! A hashed page table in an image: listed, asked for single addresses, counted.
//!
//! The image stands still and nobody unlocks an entry, so entries are decoded as they are: nothing
//! is waited for, nothing is recorded. A table knows virtual segments only; which addresses they
//! are is said by the segments that the caller gives (an SLB), or undone from Linux's allocation of
//! VSIDs.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use pgtable::memory::TableMemory;
use pgtable::{Access, Gpa, Gva, Prot, low_bits};
use pgtable_ppc64::hash::{
    Authority, GROUP_ENTRIES, Hpt, HptError, HptOrder, Hpte, Layout, PageSize, Segment,
    SegmentSize, Slb, VirtualPage, judge,
};

use super::census::HashCensus;
use super::linux::LinuxLayout;
use super::range::{Range, Rights, State, Step};
use memory_image::{Allowance, Image, ImageTables};

/// Where a table stands, and how its entries are laid out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HashTable {
    /// Its address.
    pub base: Gpa,
    /// Its size.
    pub order: HptOrder,
    /// The layout of its entries.
    pub layout: Layout,
}

/// Through which segments the table is looked at.
#[derive(Clone, Debug, Default)]
pub struct HashView {
    /// These, and no others.
    pub slb: Option<Box<Slb>>,
    /// Linux's of this process; of the kernel if it is 0. `None`: the kernel's, and a list shows
    /// all.
    pub context: Option<u32>,
    /// How the kernel lays out its own addresses.
    pub layout: LinuxLayout,
}

/// A hashed page table, in the memory of an image.
pub struct HashSpace<'i> {
    image: &'i Image<'i>,
    tables: &'i ImageTables<'i>,
    table: HashTable,
    view: HashView,
}

/// An entry with its place in some address space.
#[derive(Clone, Copy)]
pub(super) struct Listed {
    context: Option<u32>,
    va: Option<u64>,
    vsid: u64,
    offset: u64,
    hpte: Hpte,
}

/// What entries are ordered by, and what names a page.
pub(super) type Key = (bool, Option<u32>, Option<u64>, u64, u64);

impl Listed {
    pub(super) fn key(&self) -> Key {
        (self.va.is_none(), self.context, self.va, self.vsid, self.offset)
    }

    /// What it says, but for where in the table it stands.
    pub(super) fn says(&self) -> Hpte {
        Hpte { v: self.hpte.v.with_h(false), ..self.hpte }
    }
}

/// Groups that are read at a time: a megabyte.
const CHUNK: u64 = 1 << 13;
/// Bytes of a group.
const GROUP_BYTES: u64 = 16 * GROUP_ENTRIES as u64;

/// Groups of a table.
enum Groups {
    /// One, with its number and its entries.
    One(u64, [Hpte; GROUP_ENTRIES]),
    /// So many that the image does not have.
    Absent(u64),
}

impl<'i> HashSpace<'i> {
    /// The table `table`; its first and its last group must be in the image. Lists read it from
    /// `image`, piece by piece, on the allowance of `tables`.
    ///
    /// # Errors
    /// [`HptError`].
    pub fn new(
        image: &'i Image<'i>,
        tables: &'i ImageTables<'i>,
        table: HashTable,
        view: HashView,
    ) -> Result<Self, HptError> {
        Hpt::new(tables, table.base, table.order, table.layout)?;
        Ok(Self { image, tables, table, view })
    }

    /// The memory that it stands in.
    pub fn tables(&self) -> &'i ImageTables<'i> {
        self.tables
    }

    /// Calls `visit` for each group that the image has, and for runs of those that it does not
    /// have, until `visit` breaks or the allowance is spent.
    fn for_each_group(
        &self,
        progress: &dyn Fn(u64, u64),
        mut visit: impl FnMut(Groups) -> ControlFlow<()>,
    ) {
        let HashTable { base, order, layout } = self.table;
        let mut first = 0;
        while first < order.groups() {
            progress(first, order.groups());
            let start = base.get() + first * GROUP_BYTES;
            let end = (first + CHUNK).min(order.groups());
            // Of what the image does not have nothing is read: it is as much work as one group.
            let next = self.image.next_stored(start).map_or(u64::MAX, |next| next - start);
            let absent = (next / GROUP_BYTES).min(order.groups() - first);
            if absent > 0 {
                self.tables.spend(GROUP_BYTES / 8);
                if self.tables.is_over() || visit(Groups::Absent(absent)).is_break() {
                    return;
                }
                first += absent;
                continue;
            }
            // Each piece is read into a memory of its own, which is dropped behind it.
            let words = self.tables.left().words;
            let piece = self.image.tables(Allowance { words, bytes: 4 << 20 });
            for group in first..end {
                let entries = TableMemory::<Gpa>::table(
                    &piece,
                    Gpa::new(base.get() + group * GROUP_BYTES),
                    GROUP_BYTES as usize / 8,
                );
                let flow = match entries {
                    Ok(words) => visit(Groups::One(
                        group,
                        std::array::from_fn(|index| {
                            let word = |n: usize| {
                                u64::from_be(words[index * 2 + n].load(Ordering::Relaxed))
                            };
                            layout.decode([word(0), word(1)])
                        }),
                    )),
                    Err(_) if piece.is_over() => break,
                    Err(_) => visit(Groups::Absent(1)),
                };
                if flow.is_break() {
                    self.tables.spend(piece.cost().0);
                    return;
                }
            }
            self.tables.spend(piece.cost().0);
            self.tables.fail_as(&piece);
            if self.tables.is_over() {
                return;
            }
            first = end;
        }
    }

    /// Lists what is mapped, by address space and address, neighbours that say the same as one;
    /// until `visit` breaks. Then entries of no address space that is known, with `va` null.
    pub fn list(
        &self,
        visit: &mut dyn FnMut(Range) -> ControlFlow<()>,
        progress: &dyn Fn(u64, u64),
    ) {
        let mut last: Option<Range> = None;
        for entry in self.entries(progress) {
            let new = self.range(&entry);
            let joined = match &mut last {
                Some(last) if continues(last, &new) => {
                    last.bytes = last.bytes.zip(new.bytes).map(|(one, two)| one + two);
                    true
                }
                _ => false,
            };
            if !joined {
                if let Some(last) = last.replace(new) {
                    if visit(last).is_break() {
                        return;
                    }
                }
            }
        }
        if let Some(last) = last {
            let _ = visit(last);
        }
    }

    /// The valid entries that are in view, by address space and address.
    pub(super) fn entries(&self, progress: &dyn Fn(u64, u64)) -> Vec<Listed> {
        let mut listed = Vec::new();
        self.for_each_group(progress, |groups| {
            let Groups::One(group, entries) = groups else { return ControlFlow::Continue(()) };
            for hpte in entries.into_iter().filter(|hpte| hpte.v.v()) {
                let Some(entry) = self.place(hpte, group) else { continue };
                let shown = match self.view.context {
                    Some(context) => entry.context == Some(context),
                    None => true,
                };
                if shown {
                    if !self.tables.keep(size_of::<Listed>() as u64) {
                        return ControlFlow::Break(());
                    }
                    listed.push(entry);
                }
            }
            ControlFlow::Continue(())
        });
        listed.sort_by_key(Listed::key);
        listed
    }

    /// Where `hpte` in `group` belongs; `None` if it names no page.
    fn place(&self, hpte: Hpte, group: u64) -> Option<Listed> {
        let page = VirtualPage::of_entry(hpte, group, self.table.order)?;
        let (context, start) = match &self.view.slb {
            Some(slb) => (None, segment_start(slb, &page)),
            None => self
                .view
                .layout
                .place_of(page.vsid, page.segment)
                .map(|place| (place.context, place.start))
                .unzip(),
        };
        Some(Listed {
            context,
            va: start.map(|start| start | page.offset),
            vsid: page.vsid,
            offset: page.offset,
            hpte,
        })
    }

    /// The part of a page that an entry maps.
    pub(super) fn range(&self, entry: &Listed) -> Range {
        let Listed { context, va, vsid, offset, hpte } = *entry;
        let segment = self.segment_of(va, context, vsid);
        // Of a page that is larger than its segment's base size an entry is found for its own part
        // only: each part has another hash.
        let (base, size, pa) = hpte.sizes().map_or((0, 0, 0), |sizes| {
            let within = offset & low_bits(sizes.actual().shift());
            (sizes.base().bytes(), sizes.actual().bytes(), hpte.r.page(sizes) | within)
        });
        let range =
            Range::mapped(va, pa, size, rights(hpte, &segment), describe(hpte)).of_bytes(base);
        Range { vsid: Some(vsid), context, ..range }
    }

    /// The segment through which an entry is judged: the SLB's, else as Linux makes them, with Ks
    /// and Kp set for processes and Kp for the kernel.
    fn segment_of(&self, va: Option<u64>, context: Option<u32>, vsid: u64) -> Segment {
        let given =
            self.view.slb.as_ref().zip(va).and_then(|(slb, va)| slb.lookup(Gva::new(va)).ok());
        given.unwrap_or(Segment {
            vsid,
            size: SegmentSize::T1,
            base: PageSize::K4,
            ks: !matches!(context, None | Some(0)),
            kp: true,
            n: false,
            class: false,
        })
    }

    /// The segments in which `va` may lie: the SLB's one, or Linux's in each size and with each
    /// base size of pages.
    fn segments(&self, va: u64) -> Vec<Segment> {
        if let Some(slb) = &self.view.slb {
            return slb.lookup(Gva::new(va)).into_iter().collect();
        }
        let context = self.view.context.unwrap_or(0);
        let mut segments = Vec::new();
        for size in [SegmentSize::T1, SegmentSize::M256] {
            if let Some(vsid) = self.view.layout.vsid(context, va, size) {
                let segment = self.segment_of(None, Some(context), vsid);
                segments.extend(PageSize::ALL.map(|base| Segment { vsid, size, base, ..segment }));
            }
        }
        segments
    }

    /// Where `va` goes: whatever is entered for it, or if `access` is given only what it may do.
    pub fn translate(&self, va: u64, access: Option<Access>) -> Range {
        let segments = self.segments(va);
        if segments.is_empty() {
            let whose = if self.view.slb.is_some() {
                "the segments given"
            } else {
                "Linux's of this process"
            };
            let why = format!("gva {va:#x} lies in no segment of {whose}");
            return Range::faulting(va, None, State::NotMapped, why);
        }
        let found = segments.iter().find_map(|segment| Some((segment, self.find(segment, va)?)));
        if let (Some((segment, (ptex, hpte))), Some(access)) = (found, access) {
            if let Err(status) = judge(hpte.r, segment, access, Authority::default()) {
                let status = status.into_bits();
                let why = format!(
                    "{access} at gva {va:#x} is not allowed by entry {ptex:#x}, status {status:#010x}"
                );
                let size = hpte.sizes().map(|sizes| sizes.actual().bytes());
                let entry = self.table.base.get() + ptex * 16;
                return Range::faulting(va, size, State::Denied, why).by_entry(Some(entry));
            }
        }
        let Some((segment, (ptex, hpte))) = found else {
            let (state, why) = if self.tables.is_over() {
                (State::Unknown, "unknown: the allowance is spent".to_owned())
            } else if let Some(group) = self.unread(&segments, va) {
                let why = format!(
                    "unknown: group {group:#x} of the hashed page table is not in the image"
                );
                (State::Unknown, why)
            } else {
                (State::NotMapped, format!("gva {va:#x} has no entry in the hashed page table"))
            };
            return Range::faulting(va, None, state, why);
        };
        let sizes = hpte.sizes();
        let shift = sizes.map_or(0, |sizes| sizes.actual().shift());
        let pa = sizes.map_or(0, |sizes| hpte.r.page(sizes)) | va & low_bits(shift);
        let range = Range::mapped(Some(va), pa, 1 << shift, rights(hpte, segment), describe(hpte));
        let address = self.table.base.get() + ptex * 16;
        let [v, r] = self.table.layout.encode(hpte);
        let walk = vec![
            Step { level: 0, name: "HPTE V", address, word: v, entry: "leaf" },
            Step { level: 0, name: "HPTE R", address: address + 8, word: r, entry: "leaf" },
        ];
        Range { vsid: Some(segment.vsid), walk, ..range }
    }

    /// A group in which the entry for `va` might stand, and which the image does not have.
    fn unread(&self, segments: &[Segment], va: u64) -> Option<u64> {
        let HashTable { base, order, .. } = self.table;
        let groups = segments.iter().flat_map(|segment| {
            let page = VirtualPage::of(segment, Gva::new(va));
            [false, true].map(|secondary| order.group(page.hash(), secondary))
        });
        let missing = |group: &u64| {
            let start = base.get() + group * GROUP_BYTES;
            self.tables.refusal(start, GROUP_BYTES).is_some()
        };
        groups.into_iter().find(missing)
    }

    /// The entry for the page of `segment` in which `va` lies: its number, what it says.
    fn find(&self, segment: &Segment, va: u64) -> Option<(u64, Hpte)> {
        let HashTable { base, order, layout } = self.table;
        let page = VirtualPage::of(segment, Gva::new(va));
        let hpt = Hpt::new(self.tables, base, order, layout).ok()?;
        for secondary in [false, true] {
            let group = order.group(page.hash(), secondary);
            let Ok(entries) = hpt.group(group) else { continue };
            for index in 0..GROUP_ENTRIES {
                let hpte = layout.decode([entries.slot(index).v(), entries.slot(index).r()]);
                let is_it = hpte.v.v() && hpte.v.h() == secondary;
                if is_it && VirtualPage::of_entry(hpte, group, order) == Some(page) {
                    return Some((group * GROUP_ENTRIES as u64 + index as u64, hpte));
                }
            }
        }
        None
    }

    /// Counts entries and pages.
    pub fn census(&self, progress: &dyn Fn(u64, u64)) -> HashCensus {
        let HashTable { order, .. } = self.table;
        let mut census =
            HashCensus { bytes: order.bytes(), groups: order.groups(), ..HashCensus::default() };
        let mut pages = BTreeMap::new();
        self.for_each_group(progress, |groups| {
            let (group, entries) = match groups {
                Groups::One(group, entries) => (group, entries),
                Groups::Absent(count) => {
                    census.missing += count;
                    return ControlFlow::Continue(());
                }
            };
            let mut valid = 0;
            for hpte in entries.iter().filter(|hpte| hpte.v.v()) {
                valid += 1;
                census.bolted += u64::from(hpte.v.bolted());
                census.secondary += u64::from(hpte.v.h());
                match hpte.sizes().filter(|_| VirtualPage::of_entry(*hpte, group, order).is_some())
                {
                    Some(sizes) => *pages.entry(sizes.actual().bytes()).or_default() += 1,
                    None => census.malformed += 1,
                }
            }
            census.valid += valid as u64;
            census.fill[valid] += 1;
            ControlFlow::Continue(())
        });
        HashCensus { pages, ..census }
    }
}

/// The first address of the segment of `slb` in which `page` lies.
fn segment_start(slb: &Slb, page: &VirtualPage) -> Option<u64> {
    (0..pgtable_ppc64::hash::SLB_ENTRIES).find_map(|index| {
        let (esid, word) = slb.entry(index);
        let segment = Segment::of_slb(word).filter(|_| esid.v())?;
        let same =
            (segment.vsid, segment.size, segment.base) == (page.vsid, page.segment, page.base);
        same.then(|| esid.into_bits() >> segment.size.shift() << segment.size.shift())
    })
}

fn continues(last: &Range, new: &Range) -> bool {
    let follows = |one: Option<u64>, two: Option<u64>| {
        one.zip(last.bytes).and_then(|(start, bytes)| start.checked_add(bytes)) == two
            && two.is_some()
    };
    (last.size, last.rights, last.context) == (new.size, new.rights, new.context)
        && last.attributes == new.attributes
        && follows(last.va, new.va)
        && follows(last.pa, new.pa)
}

/// What `hpte` allows in `segment`.
fn rights(hpte: Hpte, segment: &Segment) -> Rights {
    let allows = |access| judge(hpte.r, segment, access, Authority::default()).is_ok();
    let prot = |of: fn(Access) -> Access| {
        Prot::new()
            .with_read(allows(of(Access::READ)))
            .with_write(allows(of(Access::WRITE)))
            .with_execute(allows(of(Access::FETCH)))
    };
    Rights { supervisor: prot(|access| access), user: prot(Access::by_user) }
}

/// What else it says, in words.
fn describe(hpte: Hpte) -> String {
    let Hpte { v, r } = hpte;
    let flags = [
        (r.r(), "referenced"),
        (r.c(), "changed"),
        (v.bolted(), "bolted"),
        (r.w(), "write-through"),
        (r.i(), "inhibited"),
        (r.g(), "guarded"),
    ];
    let mut words: Vec<_> =
        flags.iter().filter(|(said, _)| *said).map(|(_, word)| (*word).to_owned()).collect();
    if r.key() != 0 {
        words.push(format!("key={}", r.key()));
    }
    if let Some(sizes) = hpte.sizes().filter(|sizes| sizes.base() != sizes.actual()) {
        words.push(format!("base={}K", sizes.base().bytes() >> 10));
    }
    words.join(" ")
}
