//! What a person types goes to the guest's console.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::thread::Scope;

use super::gate::Gate;

/// How often somebody looks whether the machine has ended, in milliseconds.
const GLANCE: libc::c_int = 200;

/// Reads standard input on a thread of its own until its end, or the machine's.
pub fn follow<'scope>(scope: &'scope Scope<'scope, '_>, gate: &'scope Gate, type_in: impl Fn(&[u8]) + Send + 'scope) {
    scope.spawn(move || {
        let mut input = io::stdin().lock();
        let mut bytes = [0; 256];
        while !gate.has_ended() {
            let mut ready = libc::pollfd { fd: input.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one structure, of which the kernel writes `revents`.
            match unsafe { libc::poll(&raw mut ready, 1, GLANCE) } {
                0 => {}
                1.. => match input.read(&mut bytes) {
                    Ok(0) | Err(_) => return,
                    Ok(length) => type_in(&bytes[..length]),
                },
                _ => return,
            }
        }
    });
}
