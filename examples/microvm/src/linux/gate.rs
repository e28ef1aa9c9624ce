//! The gate between the vCPUs' threads and whoever stops, starts and ends them.
//!
//! The protocol. A vCPU's thread comes to the gate before each run ([`Gate::pass`]); a signal at a
//! steady pace sees to it that no run lasts. A pause closes the gate and waits until no thread is
//! beyond it; then registers and memory stand still until it opens. A CPU that the guest has not
//! started, or that stopped itself, waits at [`Gate::wait`]. Everything is under one lock; a vCPU
//! does not hold it while it runs.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pseries::CpuState;

/// Where a CPU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The real address.
    pub entry: u64,
    /// R3.
    pub r3: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cpu {
    Stopped,
    Starting(Start),
    Beyond,
    AtGate,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Run,
    Pause,
    End,
}

#[derive(Debug)]
struct State {
    wanted: Wanted,
    cpus: Vec<Cpu>,
}

/// The gate.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    /// A gate for that many CPUs, all stopped.
    pub fn new(cpus: u32) -> Self {
        let cpus = (0..cpus).map(|_| Cpu::Stopped).collect();
        Self { state: Mutex::new(State { wanted: Wanted::Run, cpus }), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_for_change<'s>(&self, state: MutexGuard<'s, State>) -> MutexGuard<'s, State> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    /// What a CPU does.
    pub fn state(&self, cpu: u32) -> CpuState {
        match self.lock().cpus.get(cpu as usize) {
            None | Some(Cpu::Stopped) => CpuState::Stopped,
            Some(Cpu::Starting(_)) => CpuState::Starting,
            Some(Cpu::Beyond | Cpu::AtGate) => CpuState::Running,
        }
    }

    /// Has a stopped CPU start; false if there is none, or it is not stopped.
    pub fn start(&self, cpu: u32, start: Start) -> bool {
        let mut state = self.lock();
        match state.cpus.get_mut(cpu as usize) {
            Some(cpu @ Cpu::Stopped) => *cpu = Cpu::Starting(start),
            _ => return false,
        }
        self.changed.notify_all();
        true
    }

    /// The CPU waits until it is started. `None`: the machine ends.
    pub fn wait(&self, cpu: u32) -> Option<Start> {
        let mut state = self.lock();
        loop {
            if state.wanted == Wanted::End {
                return None;
            }
            match state.cpus.get_mut(cpu as usize) {
                None => return None,
                Some(cpu) => match *cpu {
                    Cpu::Starting(start) => {
                        *cpu = Cpu::AtGate;
                        return Some(start);
                    }
                    _ => *cpu = Cpu::Stopped,
                },
            }
            self.changed.notify_all();
            state = self.wait_for_change(state);
        }
    }

    /// The CPU comes to the gate, and passes it once it is open; if it is closed, `still` is called
    /// before anybody takes the CPU to stand still. False: the machine ends.
    pub fn pass(&self, cpu: u32, mut still: impl FnMut()) -> bool {
        let mut state = self.lock();
        loop {
            let wanted = state.wanted;
            if wanted == Wanted::Pause {
                still();
            }
            let Some(place) = state.cpus.get_mut(cpu as usize) else { return false };
            *place = if wanted == Wanted::Run { Cpu::Beyond } else { Cpu::AtGate };
            match wanted {
                Wanted::Run => return true,
                Wanted::End => {
                    self.changed.notify_all();
                    return false;
                }
                Wanted::Pause => {
                    self.changed.notify_all();
                    state = self.wait_for_change(state);
                }
            }
        }
    }

    /// The CPU comes back for good: it will not run again.
    pub fn leave(&self, cpu: u32) {
        if let Some(place) = self.lock().cpus.get_mut(cpu as usize) {
            *place = Cpu::AtGate;
        }
        self.changed.notify_all();
    }

    /// Closes the gate, and waits until no CPU is beyond it. False: one did not come back in time.
    pub fn pause(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        if state.wanted == Wanted::Run {
            state.wanted = Wanted::Pause;
        }
        while state.cpus.contains(&Cpu::Beyond) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state =
                self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Opens the gate.
    pub fn resume(&self) {
        let mut state = self.lock();
        if state.wanted == Wanted::Pause {
            state.wanted = Wanted::Run;
        }
        self.changed.notify_all();
    }

    /// Whether the machine ends.
    pub fn has_ended(&self) -> bool {
        self.lock().wanted == Wanted::End
    }

    /// Ends the machine: no CPU passes any more.
    pub fn end(&self) {
        self.lock().wanted = Wanted::End;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn paused_cpus_stand_still_and_ended_ones_leave() {
        let gate = Gate::new(2);
        let runs = std::sync::atomic::AtomicU64::new(0);
        let count = || runs.load(std::sync::atomic::Ordering::SeqCst);
        thread::scope(|scope| {
            for cpu in 0..2 {
                let (gate, runs) = (&gate, &runs);
                scope.spawn(move || {
                    let Some(start) = gate.wait(cpu) else { return };
                    assert_eq!(start.r3, u64::from(cpu));
                    while gate.pass(cpu, || {}) {
                        runs.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                        thread::yield_now();
                    }
                });
            }
            let start = Start { entry: 0, r3: 0 };
            assert!(!gate.start(2, start), "there is no such CPU");
            // CPU 0 is stopped from the beginning on, whether or not its thread has come yet.
            assert!(gate.start(0, start));
            assert!(!gate.start(0, start), "it is not stopped");
            while count() == 0 {
                thread::yield_now();
            }
            assert!(gate.pause(Duration::from_secs(60)));
            let before = count();
            thread::sleep(Duration::from_millis(20));
            assert_eq!(count(), before, "nobody runs in a pause");
            assert_eq!((gate.state(0), gate.state(1)), (CpuState::Running, CpuState::Stopped));
            gate.resume();
            while count() == before {
                thread::yield_now();
            }
            gate.end();
        });
    }
}
