//! Memory of every kind: anonymous, of a file, in huge pages, never written, never touched, and a
//! deep stack.

use std::fs;
use std::io;
use std::ops::Range;

use super::kernel;

/// What was made.
pub struct Regions {
    /// Ranges of which each page holds its own address.
    pub tagged: Vec<Range<usize>>,
    others: Vec<Range<usize>>,
    page: usize,
}

impl Regions {
    /// Makes them, larger where there is more memory.
    pub fn new() -> io::Result<Self> {
        let page = kernel::page_size();
        // Pages of 64 K are counted in memory, pages of 4 K in number.
        let free = free_memory()?;
        let share = |part: usize, most: usize| (free / part / page).clamp(16, most) * page;
        let (write, read) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ);

        let anonymous = share(4, 2048);
        let at = kernel::map(anonymous, write, None)?;
        kernel::advise(at, anonymous, libc::MADV_NOHUGEPAGE);
        let mut tagged = vec![range(at, anonymous)];

        let of_file = share(16, 512);
        tagged.push(range(kernel::map(of_file, write, Some(c"/tagged"))?, of_file));

        // A kernel with little memory has them off unless somebody asks.
        let _ = fs::write("/sys/kernel/mm/transparent_hugepage/enabled", "madvise");
        // As many whole huge pages as fit, in a mapping that has room to align them.
        let huge = huge_page().unwrap_or(2 << 20);
        let bytes = (free / 8 / huge).clamp(1, 32) * huge;
        let at = kernel::map(bytes + huge, write, None)?;
        let aligned = at.wrapping_add(at.align_offset(huge));
        kernel::advise(aligned, bytes, libc::MADV_HUGEPAGE);
        tagged.push(range(aligned, bytes));

        // Every other page is the page of zeros; the rest of it is touched by nobody.
        let zeros = kernel::map(512 * page, read, None)?;
        kernel::advise(zeros, 512 * page, libc::MADV_NOHUGEPAGE);
        // SAFETY: a mapping of ours of that length, readable.
        let sum: u8 =
            (0..256).map(|index| unsafe { zeros.add(index * page).read_volatile() }).sum();
        kernel::map(16 * page, libc::PROT_NONE, None)?;
        if sum != 0 {
            return Err(io::Error::other("fresh memory is not zero"));
        }

        let regions = Self { tagged, others: Vec::new(), page };
        for at in regions.pages() {
            // SAFETY: a writable page of a mapping of ours, in which nothing else lives.
            unsafe { (at as *mut usize).write_volatile(at) };
        }
        deep_stack(32);
        Ok(regions)
    }

    /// Reads a word of every page of these ranges too, at each touch. They must stay readable.
    pub fn also(&mut self, ranges: Vec<Range<usize>>) {
        self.others = ranges;
    }

    /// The addresses of all pages that hold their own address.
    fn pages(&self) -> impl Iterator<Item = usize> + '_ {
        self.tagged.iter().flat_map(|range| range.clone().step_by(self.page))
    }

    /// Reads every page; false if one does not hold its address.
    pub fn touch(&self) -> bool {
        for at in self.others.iter().flat_map(|range| range.clone().step_by(self.page)) {
            // SAFETY: whoever gave the range says that it is readable.
            unsafe { (at as *const usize).read_volatile() };
        }
        // SAFETY: readable pages of mappings of ours.
        self.pages().all(|at| unsafe { (at as *const usize).read_volatile() } == at)
    }
}

fn range(at: *mut u8, bytes: usize) -> Range<usize> {
    at as usize..at as usize + bytes
}

/// Bytes that nobody uses.
fn free_memory() -> io::Result<usize> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemFree:"));
    let kilobytes = line
        .and_then(|line| line.split_whitespace().next())
        .and_then(|word| word.parse::<usize>().ok());
    kilobytes.map(|it| it << 10).ok_or_else(|| io::Error::other("no MemFree in /proc/meminfo"))
}

/// The size of a transparent huge page, if the kernel has them.
fn huge_page() -> Option<usize> {
    fs::read_to_string("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
        .ok()?
        .trim()
        .parse()
        .ok()
}

/// Goes `depth` steps of 32 KiB down the stack.
fn deep_stack(depth: usize) -> u8 {
    let frame = std::hint::black_box([depth as u8; 32 << 10]);
    let below = if depth == 0 { 0 } else { deep_stack(depth - 1) };
    below.wrapping_add(std::hint::black_box(&frame)[depth])
}
