//! The processes of a Linux kernel: its list of tasks, from `init_task` on.

use std::collections::HashSet;

use memory_image::{Image, VmcoreInfo};
use serde::Serialize;

use super::btf::Btf;
use super::kallsyms::{NoSymbols, symbols};
use super::memory::{KernelMemory, Lost};
use crate::range::hex_or_null;
use crate::root::{Arch, Located};
use crate::search::search_traces;
use crate::space::Space;

/// The most processes that Linux can have (`PID_MAX_LIMIT`).
const MOST_TASKS: u64 = 1 << 22;
/// The most bytes of BTF: generic kernels have 6 MiB.
const MOST_BTF: u64 = 64 << 20;
/// The flag of kernel threads.
const PF_KTHREAD: u32 = 0x20_0000;
/// Bytes of a task's name (`TASK_COMM_LEN`).
const NAME: usize = 16;

/// A process of a Linux kernel.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Process {
    /// Its number; null if only its root was found.
    pub pid: Option<u32>,
    /// That of its parent; null if it cannot be read.
    pub parent: Option<u32>,
    /// Its name, of at most 15 bytes; null likewise.
    pub name: Option<String>,
    /// The physical address of its root table; null for a kernel thread, which has none, and for
    /// one that has ended or cannot be read.
    #[serde(serialize_with = "hex_or_null")]
    pub root: Option<u64>,
    /// Whether it is a kernel thread.
    pub kernel: bool,
    /// On POWER: its number to the MMU, which `--pid` takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context: Option<u64>,
}

/// How processes were found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FoundBy {
    /// By the kernel's list of tasks.
    #[default]
    TaskList,
    /// Their root tables were found in memory by their looks: some may be of processes that have
    /// ended.
    Looks,
    /// They are the entries of the process table (POWER).
    ProcessTable,
}

/// The processes of a kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Processes {
    /// How they were found.
    pub found_by: FoundBy,
    /// In the order of the kernel's list, or of their roots.
    pub processes: Vec<Process>,
    /// Why there may be more; null if all are there.
    pub fault: Option<String>,
}

/// Why the processes of an image are not known.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoTasks {
    /// The image does not tell of a Linux kernel.
    #[error("the image has no VMCOREINFO")]
    NoLinux,
    /// It does not say where its symbols are.
    #[error("VMCOREINFO does not say where the kernel's symbols are (Linux does since 6.0)")]
    NoSymbols,
    /// A symbol that is needed is not among them.
    #[error("the kernel's symbols lack {0} (CONFIG_KALLSYMS_ALL, CONFIG_DEBUG_INFO_BTF)")]
    NoSymbol(&'static str),
    /// The kernel's types lack a member.
    #[error("the kernel's BTF lacks {0}")]
    NoMember(String),
    /// What is needed is not in the image.
    #[error("unknown: the kernel's {what} at {why}")]
    Lost {
        /// What.
        what: &'static str,
        /// Where, and why it cannot be read.
        why: String,
    },
    /// What should be a table of symbols or types is none.
    #[error("the kernel's {what} cannot be read: {why}")]
    Malformed {
        /// Of what.
        what: &'static str,
        /// What is wrong.
        why: &'static str,
    },
}

impl NoTasks {
    fn lost(what: &'static str) -> impl Fn(Lost) -> Self {
        move |lost| Self::Lost { what, why: lost.to_string() }
    }
}

impl From<NoSymbols> for NoTasks {
    fn from(why: NoSymbols) -> Self {
        let what = "symbols";
        match why {
            NoSymbols::Untold => Self::NoSymbols,
            NoSymbols::Lost(lost) => Self::Lost { what, why: lost.to_string() },
            NoSymbols::Malformed(why) => Self::Malformed { what, why },
        }
    }
}

/// Where members stand.
struct Layout {
    tasks: u64,
    flags: u64,
    tgid: u64,
    comm: u64,
    mm: u64,
    parent: u64,
    pgd: u64,
    /// `mm->context.id` of POWER.
    context: Option<u64>,
}

impl Layout {
    fn of(btf: &Btf) -> Result<Self, NoTasks> {
        let at = |name: &str, member: &str| {
            btf.offset(name, member).ok_or_else(|| NoTasks::NoMember(format!("{name}.{member}")))
        };
        Ok(Self {
            tasks: at("task_struct", "tasks")?,
            flags: at("task_struct", "flags")?,
            tgid: at("task_struct", "tgid")?,
            comm: at("task_struct", "comm")?,
            mm: at("task_struct", "mm")?,
            parent: at("task_struct", "real_parent")?,
            pgd: at("mm_struct", "pgd")?,
            context: btf.offset("mm_struct", "context.id"),
        })
    }
}

/// The processes of the Linux kernel whose own address space `space` is.
///
/// Its symbols say where its list and its types are. A kernel that does not tell them, or has those
/// of code alone (without `CONFIG_KALLSYMS_ALL`), is searched for both: `progress` hears how far.
///
/// # Errors
/// [`NoTasks`]: what is needed to find any.
pub fn processes(
    image: &Image<'_>,
    space: &Space<'_>,
    located: &Located,
    progress: &dyn Fn(u64, u64),
) -> Result<Processes, NoTasks> {
    let narrow = matches!(located.arch, Arch::X86_32 | Arch::X86Pae);
    let mut memory = KernelMemory::new(image, space, narrow);
    let (init, layout) = match told(&mut memory, located.linux.as_ref()) {
        Ok(it) => it,
        Err(why) => searched(image, &mut memory, progress).ok_or(why)?,
    };
    let power = matches!(located.arch, Arch::Ppc64Radix | Arch::Ppc64Hash);
    let tasks = Tasks { memory, layout, power };
    Ok(tasks.list(init, space))
}

/// The address of `init_task` and the layout of tasks, as symbols tell.
fn told(
    memory: &mut KernelMemory<'_>,
    info: Option<&VmcoreInfo>,
) -> Result<(u64, Layout), NoTasks> {
    let info = info.ok_or(NoTasks::NoLinux)?;
    let symbols = symbols(memory, info, &["init_task", "__start_BTF", "__stop_BTF"])?;
    let symbol = |name: &'static str| symbols.get(name).copied().ok_or(NoTasks::NoSymbol(name));
    let init = symbol("init_task")?;
    let types = types(memory, symbol("__start_BTF")?, symbol("__stop_BTF")?)?;
    Ok((init, Layout::of(&types)?))
}

/// The same, by their looks: BTF that has all members that are needed, and an idle task that is its
/// own parent, at the address that it says.
fn searched(
    image: &Image<'_>,
    memory: &mut KernelMemory<'_>,
    progress: &dyn Fn(u64, u64),
) -> Option<(u64, Layout)> {
    let traces = search_traces(image, progress);
    let mut budget = MOST_BTF;
    for at in traces.types {
        let mut header = [0; Btf::HEADER];
        if image.read(at, &mut header).is_err() {
            continue;
        }
        let bytes = Btf::length(&header);
        if bytes > budget || !image.holds(at, bytes) {
            continue;
        }
        budget -= bytes;
        let mut buffer = vec![0; bytes as usize];
        if image.read(at, &mut buffer).is_err() {
            continue;
        }
        let Some(types) = Btf::read(buffer) else { continue };
        let Ok(layout) = Layout::of(&types) else { continue };
        memory.big = types.is_big();
        let init = traces.idle.iter().find_map(|name| idle(image, memory, &layout, *name));
        if let Some(init) = init {
            return Some((init, layout));
        }
    }
    None
}

/// The address of the first CPU's idle task, if its name stands at the physical address `name`.
fn idle(image: &Image<'_>, memory: &KernelMemory<'_>, layout: &Layout, name: u64) -> Option<u64> {
    let task = name.checked_sub(layout.comm)?;
    let mut text = [0; NAME];
    image.read(name, &mut text).ok()?;
    let known = text.starts_with(b"swapper/0\0") || text.starts_with(b"swapper\0");
    let mut pointer = vec![0; memory.pointer_bytes() as usize];
    image.read(task.checked_add(layout.parent)?, &mut pointer).ok()?;
    if !memory.big {
        pointer.reverse();
    }
    let address = pointer.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let is = known && memory.physical(address).ok() == Some(task);
    (is && memory.u32(address.wrapping_add(layout.tgid)).ok() == Some(0)).then_some(address)
}

/// The kernel's types.
fn types(memory: &KernelMemory<'_>, start: u64, stop: u64) -> Result<Btf, NoTasks> {
    let malformed = |why| NoTasks::Malformed { what: "BTF", why };
    let bytes = stop.checked_sub(start).filter(|bytes| *bytes <= MOST_BTF);
    let mut buffer = vec![0; bytes.ok_or(malformed("its end is not behind its start"))? as usize];
    memory.read(start, &mut buffer).map_err(NoTasks::lost("BTF"))?;
    Btf::read(buffer).ok_or(malformed("its header or a type is none"))
}

struct Tasks<'i> {
    memory: KernelMemory<'i>,
    layout: Layout,
    power: bool,
}

impl Tasks<'_> {
    fn list(&self, init: u64, space: &Space<'_>) -> Processes {
        let head = init.wrapping_add(self.layout.tasks);
        let mut all = Processes::default();
        let mut seen = HashSet::from([head]);
        let mut here = head;
        loop {
            here = match self.memory.word(here) {
                Ok(next) if next == head => return all,
                Ok(next) => next,
                Err(lost) => {
                    all.fault = Some(format!("the list of tasks goes on at {lost}"));
                    return all;
                }
            };
            let room = space.tables().keep((size_of::<Process>() + NAME + 2 * 8) as u64);
            if !seen.insert(here) || all.processes.len() as u64 >= MOST_TASKS {
                all.fault = Some(format!("the list of tasks leads in a circle at {here:#x}"));
                return all;
            }
            if !room {
                all.fault = Some("a limit is reached (--limit-memory)".to_owned());
                return all;
            }
            let task = here.wrapping_sub(self.layout.tasks);
            match self.process(task) {
                Ok(process) => all.processes.push(process),
                Err(lost) => {
                    all.fault = Some(format!("the task at {task:#x} is not all there: {lost}"));
                    return all;
                }
            }
        }
    }

    fn process(&self, task: u64) -> Result<Process, Lost> {
        let (memory, layout) = (&self.memory, &self.layout);
        let pid = memory.u32(task.wrapping_add(layout.tgid))?;
        let mut name = [0; NAME];
        memory.read(task.wrapping_add(layout.comm), &mut name)?;
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(NAME);
        let flags = memory.u32(task.wrapping_add(layout.flags))?;
        let mm = memory.word(task.wrapping_add(layout.mm))?;
        let parent = memory
            .word(task.wrapping_add(layout.parent))
            .and_then(|parent| memory.u32(parent.wrapping_add(layout.tgid)));
        let of_mm = |offset: u64| memory.word(mm.wrapping_add(offset)).ok().filter(|_| mm != 0);
        let root = of_mm(layout.pgd).and_then(|pgd| memory.physical(pgd).ok());
        Ok(Process {
            pid: Some(pid),
            parent: parent.ok(),
            name: Some(String::from_utf8_lossy(&name[..end]).into_owned()),
            root,
            kernel: flags & PF_KTHREAD != 0,
            context: layout.context.filter(|_| self.power).and_then(of_mm),
        })
    }
}
