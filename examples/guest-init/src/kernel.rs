//! What init asks of the kernel, in libc’s words.

use std::ffi::CStr;
use std::io;
use std::ptr;

fn check(returned: libc::c_int) -> io::Result<libc::c_int> {
    if returned >= 0 { Ok(returned) } else { Err(io::Error::last_os_error()) }
}

/// Mounts proc and sysfs where they belong.
pub fn mount_all() -> io::Result<()> {
    for (kind, at) in [(c"proc", c"/proc"), (c"sysfs", c"/sys")] {
        // SAFETY: all are C strings that outlive the calls.
        let mounted = unsafe {
            libc::mkdir(at.as_ptr(), 0o755);
            libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), 0, ptr::null())
        };
        check(mounted)?;
    }
    Ok(())
}

/// Powers the machine off, once all that was printed has left it. The x86-64 machine has nothing to
/// power itself off by: a reset ends it.
pub fn power_off() -> ! {
    let how = if cfg!(target_arch = "x86_64") { libc::RB_AUTOBOOT } else { libc::RB_POWER_OFF };
    // SAFETY: neither takes memory of ours.
    unsafe {
        libc::tcdrain(1);
        libc::reboot(how);
    }
    loop {
        std::thread::park();
    }
}

/// The kernel’s log.
pub fn log() -> io::Result<String> {
    /// `SYSLOG_ACTION_READ_ALL`.
    const READ_ALL: libc::c_int = 3;
    let mut buffer = vec![0_u8; 1 << 18];
    // SAFETY: the kernel writes no more than the buffer's length to it.
    let length = check(unsafe {
        libc::klogctl(READ_ALL, buffer.as_mut_ptr().cast(), buffer.len() as libc::c_int)
    })?;
    buffer.truncate(length.unsigned_abs() as usize);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

/// Keeps the kernel from writing into the middle of our lines, unless it dies.
pub fn hush() -> io::Result<()> {
    /// `SYSLOG_ACTION_CONSOLE_LEVEL`.
    const CONSOLE_LEVEL: libc::c_int = 8;
    // SAFETY: takes no memory of ours.
    check(unsafe { libc::klogctl(CONSOLE_LEVEL, ptr::null_mut(), 1) }).map(drop)
}

/// The size of a page.
pub fn page_size() -> usize {
    // SAFETY: takes no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).unwrap_or(0x1000)
}

/// Sets `bytes` of the heap aside, and keeps what is freed: the address space stays as it is while
/// less is used.
pub fn keep_heap(bytes: usize) -> io::Result<()> {
    /// glibc takes no more (`HEAP_MAX_SIZE / 2`).
    const MOST: libc::c_int = 32 << 20;
    // SAFETY: sets numbers of the allocator's.
    let set = unsafe {
        [
            libc::mallopt(libc::M_MMAP_THRESHOLD, MOST),
            libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX),
        ]
    };
    // The compiler must not see that nobody uses it.
    drop(std::hint::black_box(vec![1_u8; bytes]));
    if set == [1, 1] {
        Ok(())
    } else {
        Err(io::Error::other("the allocator does not take its settings"))
    }
}

/// Makes all that is mapped present, and keeps it so.
pub fn lock_all() -> io::Result<()> {
    // SAFETY: takes no memory of ours.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT) }).map(drop)
}

/// Whether standard input has something to read now.
pub fn has_input() -> bool {
    let mut input = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
    // SAFETY: one structure, of which the kernel writes `revents`.
    unsafe { libc::poll(&raw mut input, 1, 0) > 0 }
}

/// A mapping that stays for good.
pub fn map(bytes: usize, protection: libc::c_int, file: Option<&CStr>) -> io::Result<*mut u8> {
    let (flags, fd) = match file {
        None => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        Some(path) => {
            // SAFETY: a C string; the kernel opens it.
            let fd =
                check(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CREAT, 0o600) })?;
            // SAFETY: takes no memory of ours.
            check(unsafe { libc::ftruncate(fd, bytes as libc::off_t) })?;
            (libc::MAP_SHARED, fd)
        }
    };
    // SAFETY: a new mapping where the kernel likes it.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, protection, flags, fd, 0) };
    if at == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(at.cast()) }
}

/// Advises the kernel about huge pages; one that has none says so, which is no matter.
pub fn advise(at: *mut u8, bytes: usize, advice: libc::c_int) {
    // SAFETY: the range is a mapping of ours, and the advice changes no content.
    unsafe { libc::madvise(at.cast(), bytes, advice) };
}
