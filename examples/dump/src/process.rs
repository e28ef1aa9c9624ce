//! The tables of a process of Linux, by its number or its name; and the root tables in memory,
//! where a kernel does not tell of its processes.

use std::str::FromStr;

use memory_image::{Allowance, Image};
use pgtable::Gpa;

use super::linux_kernel::{FoundBy, Process, Processes, processes};
use super::root::{Arch, Located, Request, Root, RootChoice, locate};
use super::root_error::{RootError, Several};
use super::search::{search_process_table, search_roots};
use super::space::Space;
use super::x86_root::{USER_HALF, has_user_half};
use super::{arm_root, radix_root};

/// Which process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Which {
    /// By its number.
    Pid(u32),
    /// By its name, which one process alone has.
    Name(String),
}

impl FromStr for Which {
    type Err = std::convert::Infallible;

    /// A decimal number, or a name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(text.parse().map_or_else(|_| Self::Name(text.to_owned()), Self::Pid))
    }
}

impl Which {
    fn is(&self, process: &Process) -> bool {
        match self {
            Self::Pid(pid) => process.pid == Some(*pid),
            Self::Name(name) => process.name.as_deref() == Some(name),
        }
    }
}

/// The kernel's own tables, with what it says of itself: by which its memory is read.
///
/// # Errors
/// As [`locate`].
pub fn locate_kernel(
    image: &Image<'_>,
    request: &Request,
    progress: &dyn Fn(u64, u64),
) -> Result<Located, RootError> {
    let hash = request.arch == Some(Arch::Ppc64Hash);
    let root = match request.root {
        Some(RootChoice::Address(_)) => request.root,
        _ => (!hash).then_some(RootChoice::Kernel),
    };
    let pid = hash.then_some(0);
    locate(image, &Request { root, pid, linux: true, ..request.clone() }, progress)
}

/// The tables of a process. Its kernel's memory is read within `allowance`.
///
/// # Errors
/// As [`locate`] of the kernel's own tables; [`RootError::Processes`] if the kernel does not tell
/// of its processes; [`RootError::NoSuchProcess`].
pub fn locate_process(
    image: &Image<'_>,
    request: &Request,
    which: &Which,
    allowance: Allowance,
    progress: &dyn Fn(u64, u64),
) -> Result<Located, RootError> {
    let kernel = locate_kernel(image, request, progress)?;
    let user = request.root == Some(RootChoice::User);
    if user && !matches!(kernel.root, Root::LongMode(..) | Root::Pae(..)) {
        return Err(RootError::Option { option: "--root user", arch: kernel.arch });
    }
    let tables = image.tables(allowance).without(kernel.foreign);
    let space = Space::of(image, &tables, &kernel)
        .map_err(|why| RootError::Unsupported(why.to_string()))?;
    let all = processes(image, &space, &kernel, progress).map_err(RootError::Processes)?;
    let name = match which {
        Which::Pid(pid) => pid.to_string(),
        Which::Name(name) => format!("{name:?}"),
    };
    let no = |why: &str| RootError::NoSuchProcess { name: name.clone(), why: why.to_owned() };
    let mut found = all.processes.iter().filter(|process| which.is(process));
    let Some(process) = found.next() else {
        let why = all.fault.as_ref().map(|why| format!("is not among those that are known: {why}"));
        return Err(no(&why.unwrap_or_else(|| "does not exist (ptdump ps lists all)".to_owned())));
    };
    if found.next().is_some() {
        let candidates = all.processes.iter().filter(|process| which.is(process));
        let pid = |process: &Process| format!("--process {}", process.pid.unwrap_or(0));
        let what = "processes of this name";
        let candidates = candidates.map(pid).collect();
        return Err(RootError::Several(Several { what, candidates }));
    }
    let root = process.root.unwrap_or(0);
    if process.root.is_some() && user && !has_user_half(image, root) {
        return Err(no("has no user's half: its kernel runs without page-table isolation"));
    }
    let mut located = of_process(&kernel, process)?;
    if let (Which::Name(_), Some(why)) = (which, &all.fault) {
        located.remarks.push(format!("there may be other processes of this name: {why}"));
    }
    if user {
        // The user's half of page-table isolation is the page behind.
        (located.arch, located.root) = root_of(&kernel, root | USER_HALF, process.context)?;
    }
    Ok(located)
}

/// The tables of a process that is listed, beside those of its kernel.
///
/// # Errors
/// [`RootError::NoSuchProcess`] if it has none, [`RootError::NoRoot`] if the kernel does not tell
/// enough.
pub fn of_process(kernel: &Located, process: &Process) -> Result<Located, RootError> {
    let (pid, name) = (process.pid.unwrap_or(0), process.name.as_deref().unwrap_or(""));
    let no = |why: String| RootError::NoSuchProcess { name: pid.to_string(), why };
    let Some(root) = process.root else {
        return Err(no(if process.kernel {
            "is a kernel thread, which has no tables of its own (--root kernel)".to_owned()
        } else {
            "has ended, or its root cannot be read".to_owned()
        }));
    };
    let pages = matches!(kernel.root, Root::LongMode(..) | Root::Paging32(..) | Root::Sv(..));
    if pages && root % 0x1000 != 0 {
        let why = format!("has a root, {root:#x}, that is no page: its mm_struct is damaged");
        return Err(no(why));
    }
    let source = format!("process {pid} ({}) of Linux's list of tasks", name.escape_debug());
    let (arch, root) = root_of(kernel, root, process.context)?;
    Ok(Located { arch, root, source, ..kernel.clone() })
}

/// The tables of a process whose root table stands at `root`, beside those of its kernel.
fn root_of(kernel: &Located, root: u64, context: Option<u64>) -> Result<(Arch, Root), RootError> {
    let at = Gpa::new(root);
    let tables = match &kernel.root {
        Root::LongMode(format, _) => Root::LongMode(*format, at),
        Root::Pae(format, _) => Root::Pae(*format, at),
        Root::Paging32(format, _) => Root::Paging32(*format, at),
        Root::Radix(..) => Root::Radix(radix_root::process_format(), at),
        Root::Sv(format, _) => Root::Sv(*format, at),
        Root::VmsaStage1(..) => {
            let info = kernel.linux.as_ref().ok_or(RootError::NoRoot("TTBR0_EL1".to_owned()))?;
            return Ok((Arch::Aarch64, Root::VmsaStage1(arm_root::lower(info)?, at)));
        }
        Root::Hash(table, view) => {
            let context = context.and_then(|it| u32::try_from(it).ok());
            let none = || RootError::NoRoot("mm_context_t.id".to_owned());
            let view =
                super::hash::HashView { context: Some(context.ok_or_else(none)?), ..view.clone() };
            Root::Hash(*table, view)
        }
        other @ (Root::Ept(..) | Root::VmsaStage2(..) | Root::SvX4(..)) => other.clone(),
    };
    Ok((kernel.arch, tables))
}

/// The processes whose root tables are found in memory by their looks, or in POWER's process table;
/// `None` if this architecture's have none that tell them from other memory.
///
/// On x86-64 and RISC-V the upper half of a process's root table is the kernel's. Tables of
/// processes that have ended may still be there.
#[must_use]
pub fn processes_by_looks(
    image: &Image<'_>,
    kernel: &Located,
    progress: &dyn Fn(u64, u64),
) -> Option<Processes> {
    let of = |pid, root| Process {
        pid: None,
        parent: None,
        name: None,
        root: Some(root),
        kernel: false,
        context: pid,
    };
    let (found_by, (processes, complete)) = match &kernel.root {
        Root::LongMode(..) | Root::Sv(..) => {
            let (roots, complete) = search_roots(image, kernel, progress)?;
            let roots = roots.into_iter().map(|root| of(None, root)).collect();
            (FoundBy::Looks, (roots, complete))
        }
        Root::Radix(_, root) => {
            let (entries, complete) = search_process_table(image, root.get(), progress)?;
            let entries = entries.into_iter().map(|(pid, root)| of(Some(pid), root)).collect();
            (FoundBy::ProcessTable, (entries, complete))
        }
        _ => return None,
    };
    let processes: Vec<_> = processes;
    let fault = (!complete).then(|| "the search was given up".to_owned());
    Some(Processes { found_by, processes, fault })
}
