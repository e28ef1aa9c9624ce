//! Run-Time Abstraction Services (PAPR chapter 7): the guest fills a block of 32-bit big-endian
//! words in its memory (token, number of arguments, number of results, arguments, results) and
//! calls RTAS, which is a few instructions that [`boot`](super::boot) put there: they make a
//! hypercall of it.
//!
//! Tokens are ours to choose; the device tree names them. They are QEMU's. The first result is a
//! status.

use arrayvec::ArrayVec;
use chrono::{DateTime, Datelike, Timelike, Utc};
use std::time::SystemTime;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::hcall::{Next, Platform};
use super::host::{CpuState, Ending, Host};
use super::status::Status;

/// The hypercall that [`BLOB`] makes; private, as QEMU's `KVMPPC_H_RTAS`.
pub(super) const H_RTAS: u64 = 0xf000;

/// What stands where the tree says RTAS is, big-endian: RTAS is called in 32-bit big-endian real
/// mode.
///
/// ```text
/// mr r4,r3 ; lis r3,0 ; ori r3,r3,H_RTAS ; sc 1 ; blr
/// ```
pub(super) const BLOB: [u32; 5] =
    [0x7c64_1b78, 0x3c60_0000, 0x6063_0000 | H_RTAS as u32, 0x4400_0022, 0x4e80_0020];

/// The most arguments, or results, that a call of ours is given.
const MOST: usize = 16;
/// The most bytes of a text that the guest points at.
const TEXT: usize = 256;

/// Status: done.
const SUCCESS: i32 = 0;
/// Status: the hardware failed.
const HARDWARE_ERROR: i32 = -1;
/// Status: an argument is invalid, or there is no such thing.
const NO_SUCH: i32 = -3;

/// A call, as the guest wrote it.
struct Call {
    args: ArrayVec<u32, MOST>,
    /// After the status; as many as the guest has room for are stored.
    results: ArrayVec<u32, MOST>,
}

/// How a call ends: with a status, or the machine does.
enum Outcome {
    Status(i32),
    Never(Next),
}

type Service<M, H> = fn(&Platform<M, H>, &mut Call) -> Outcome;

/// The services, as the tree names them, and their tokens.
pub(super) const TOKENS: [(&str, u32); 14] = [
    ("display-character", 0x2000),
    ("get-time-of-day", 0x2001),
    ("set-time-of-day", 0x2002),
    ("power-off", 0x2003),
    ("system-reboot", 0x2004),
    ("query-cpu-stopped-state", 0x2005),
    ("start-cpu", 0x2006),
    ("stop-self", 0x2007),
    ("ibm,get-system-parameter", 0x2008),
    ("ibm,set-xive", 0x200a),
    ("ibm,get-xive", 0x200b),
    ("ibm,int-off", 0x200c),
    ("ibm,int-on", 0x200d),
    ("ibm,os-term", 0x201f),
];

impl<M: GuestMemoryBackend, H: Host> Platform<M, H> {
    fn service(name: &str) -> Service<M, H> {
        match name {
            "display-character" => Self::display_character,
            "get-time-of-day" => Self::get_time_of_day,
            "power-off" => |_, _| Outcome::Never(Next::End(Ending::PowerOff)),
            "system-reboot" => |_, _| Outcome::Never(Next::End(Ending::Reboot)),
            "query-cpu-stopped-state" => Self::query_cpu_stopped_state,
            "start-cpu" => Self::start_cpu,
            "stop-self" => |_, _| Outcome::Never(Next::Stop),
            "ibm,os-term" => Self::os_term,
            // There are no system parameters, no interrupt sources, and no clock to set.
            _ => |_, _| Outcome::Status(NO_SUCH),
        }
    }

    /// R4: the block’s real address. The call itself succeeds; the service’s status is in the
    /// block.
    pub(super) fn rtas(&self, args: &[u64; 9]) -> Next {
        let block = args[0];
        let Some([token, nargs, nret]) = self.words(block) else {
            return Next::Resume(Status::PARAMETER);
        };
        if nargs as usize > MOST || nret as usize > MOST {
            return Next::Resume(Status::PARAMETER);
        }
        let mut call = Call { args: ArrayVec::new(), results: ArrayVec::new() };
        for index in 0..u64::from(nargs) {
            let Some([word]) = self.words(block.saturating_add(12 + 4 * index)) else {
                return Next::Resume(Status::PARAMETER);
            };
            call.args.push(word);
        }
        let outcome = match TOKENS.iter().find(|(_, it)| *it == token) {
            Some((name, _)) => Self::service(name)(self, &mut call),
            None => {
                self.note_once(1 << 32 | u64::from(token), || {
                    format!("RTAS has no service {token:#x}")
                });
                Outcome::Status(NO_SUCH)
            }
        };
        match outcome {
            Outcome::Never(next) => next,
            Outcome::Status(status) => {
                let results = [status as u32].into_iter().chain(call.results);
                let at = block.saturating_add(12 + 4 * u64::from(nargs));
                for (result, index) in results.zip(0..u64::from(nret)) {
                    let address = GuestAddress(at.saturating_add(4 * index));
                    if self.memory.write_obj(result.to_be_bytes(), address).is_err() {
                        return Next::Resume(Status::PARAMETER);
                    }
                }
                Next::Resume(Status::SUCCESS)
            }
        }
    }

    fn words<const N: usize>(&self, at: u64) -> Option<[u32; N]> {
        let mut words = [0; N];
        for (word, index) in words.iter_mut().zip(0..) {
            let address = at.checked_add(4 * index)?;
            *word = u32::from_be_bytes(self.memory.read_obj(GuestAddress(address)).ok()?);
        }
        Some(words)
    }

    /// Argument: a character.
    fn display_character(&self, call: &mut Call) -> Outcome {
        let Some(&character) = call.args.first() else { return Outcome::Status(NO_SUCH) };
        self.host.print(&[character as u8]);
        Outcome::Status(SUCCESS)
    }

    /// Results: year, month, day, hour, minute, second, nanosecond (UTC).
    fn get_time_of_day(&self, call: &mut Call) -> Outcome {
        let now = DateTime::<Utc>::from(SystemTime::now());
        let year = u32::try_from(now.year()).unwrap_or_default();
        call.results.extend([
            year,
            now.month(),
            now.day(),
            now.hour(),
            now.minute(),
            now.second(),
            now.nanosecond(),
        ]);
        Outcome::Status(SUCCESS)
    }

    /// Argument: the CPU. Result: 0 stopped, 1 on its way, 2 running.
    fn query_cpu_stopped_state(&self, call: &mut Call) -> Outcome {
        match call.args.first() {
            Some(&cpu) if cpu < self.machine.cpus => {
                call.results.push(match self.host.cpu_state(cpu) {
                    CpuState::Stopped => 0,
                    CpuState::Starting => 1,
                    CpuState::Running => 2,
                });
                Outcome::Status(SUCCESS)
            }
            _ => Outcome::Status(NO_SUCH),
        }
    }

    /// Arguments: the CPU, where it begins, what it finds in R3.
    fn start_cpu(&self, call: &mut Call) -> Outcome {
        match *call.args {
            [cpu, entry, r3] if cpu < self.machine.cpus => {
                let started = self.host.start_cpu(cpu, entry.into(), r3.into());
                Outcome::Status(if started { SUCCESS } else { HARDWARE_ERROR })
            }
            _ => Outcome::Status(NO_SUCH),
        }
    }

    /// Argument: the address of a text.
    fn os_term(&self, call: &mut Call) -> Outcome {
        let mut text = Vec::new();
        if let Some(&at) = call.args.first() {
            let bytes = (0..TEXT as u64).map_while(|offset| {
                let address = u64::from(at) + offset;
                self.memory.read_obj::<u8>(GuestAddress(address)).ok().filter(|byte| *byte != 0)
            });
            text.extend(bytes);
        }
        let why = String::from_utf8_lossy(&text).trim().to_owned();
        Outcome::Never(Next::End(Ending::Terminated(why)))
    }
}
