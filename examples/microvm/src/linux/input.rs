//! What a person types goes to the guest's console.

use std::io::{self, BufRead};
use std::os::fd::AsRawFd;
use std::thread::Scope;

use super::gate::Gate;

/// How often somebody looks whether the machine has ended, in milliseconds.
const GLANCE: libc::c_int = 200;

/// Reads standard input on a thread of its own until its end, or the machine's.
pub fn follow<'scope>(
    scope: &'scope Scope<'scope, '_>,
    gate: &'scope Gate,
    type_in: impl Fn(&[u8]) + Send + 'scope,
) {
    scope.spawn(move || {
        let mut input = io::stdin().lock();
        while !gate.has_ended() {
            let mut ready =
                libc::pollfd { fd: input.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: one structure, of which the kernel writes `revents`.
            match unsafe { libc::poll(&raw mut ready, 1, GLANCE) } {
                0 => {}
                1.. => match input.fill_buf() {
                    Ok([]) | Err(_) => return,
                    Ok(bytes) => {
                        type_in(bytes);
                        let length = bytes.len();
                        input.consume(length);
                    }
                },
                _ => return,
            }
        }
    });
}
