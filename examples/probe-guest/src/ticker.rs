//! A signal at a steady pace, so that no `KVM_RUN` lasts for ever.
//!
//! A guest can loop without an exit: in its own code, or (radix guests) by a branch to a guest real
//! address without memory, which KVM-HV retries without end. Only a signal ends that `KVM_RUN`. One
//! signal at a deadline isn’t enough: it could come just before the kernel enters the guest. A
//! periodic one always hits, and costs no call per run; whoever gets `EINTR` looks at the clock.

use std::io;
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::Duration;

/// While it lives, `SIGALRM` comes to the thread that made it once per period.
#[derive(Debug)]
pub struct Ticker {
    timer: libc::timer_t,
    /// The timer is bound to one thread, so its owner stays there.
    _thread: PhantomData<*const ()>,
}

extern "C" fn ignore(_signal: libc::c_int) {}

impl Ticker {
    /// Starts ticking at the calling thread.
    ///
    /// # Errors
    /// The OS error.
    pub fn start(period: Duration) -> io::Result<Self> {
        // SAFETY: all-zero is a valid `sigaction`: no flags, an empty mask.
        let mut action: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // Other system calls go on; `KVM_RUN` returns `EINTR` all the same.
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the handler does nothing, so it is async-signal-safe.
        check(unsafe { libc::sigaction(libc::SIGALRM, &action, ptr::null_mut()) })?;

        // SAFETY: all-zero is a valid `sigevent`.
        let mut event: libc::sigevent = unsafe { MaybeUninit::zeroed().assume_init() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGALRM;
        // SAFETY: takes nothing and cannot fail.
        event.sigev_notify_thread_id = unsafe { libc::gettid() };
        let mut timer = ptr::null_mut();
        // SAFETY: both arguments are live values of the right type.
        check(unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) })?;
        let ticker = Self { timer, _thread: PhantomData };

        let period = libc::timespec {
            tv_sec: period.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(period.subsec_nanos() as i32),
        };
        let setting = libc::itimerspec { it_interval: period, it_value: period };
        // SAFETY: the timer is ours and alive.
        check(unsafe { libc::timer_settime(ticker.timer, 0, &setting, ptr::null_mut()) })?;
        Ok(ticker)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        // SAFETY: the timer is ours and is not used again.
        unsafe { libc::timer_delete(self.timer) };
    }
}

fn check(returned: libc::c_int) -> io::Result<()> {
    if returned == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
