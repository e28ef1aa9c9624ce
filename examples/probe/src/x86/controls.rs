//! Which control bits the processor is probed with: those that this CPU has.

use fastrand::Rng;
use kvm_x86::Features;
use pgtable_x86::{Controls, KeyRegister};

/// Sets for the systematic cases: each control in both positions, and those that bear on one
/// another together.
pub fn each(features: &Features) -> Vec<Controls> {
    let usual = features.controls();
    let mut sets = vec![usual, Controls { wp: false, ..usual }];
    if features.nx {
        sets.extend([
            Controls { nxe: false, ..usual },
            Controls { nxe: false, wp: false, ..usual },
        ]);
    }
    if features.smep {
        sets.extend([
            Controls { smep: true, ..usual },
            Controls { smep: true, nxe: false, ..usual },
        ]);
    }
    if features.smap {
        let smap = Controls { smap: true, ..usual };
        sets.extend([smap, Controls { ac: true, ..smap }, Controls { wp: false, ..smap }]);
    }
    if features.pku {
        // Key 0 is most pages'; the other keys come with single bits of 62:59.
        for pkru in [0x5555_5554, 0xaaaa_aaa8, 0x1, 0x2, 0x3] {
            let keys = Controls { pke: true, pkru: KeyRegister(pkru), ..usual };
            sets.extend([keys, Controls { wp: false, ..keys }]);
        }
    }
    sets
}

/// A random set.
pub fn any(features: &Features, dice: &mut Rng) -> Controls {
    let smap = features.smap && dice.bool();
    Controls {
        wp: dice.u8(..4) != 0,
        nxe: features.nx && dice.u8(..4) != 0,
        smep: features.smep && dice.bool(),
        smap,
        ac: smap && dice.bool(),
        pke: features.pku && dice.bool(),
        // Half of the keys unrestricted, or nearly everything would end the same way.
        pkru: KeyRegister(if features.pku { dice.u32(..) & dice.u32(..) } else { 0 }),
        ..features.controls()
    }
}

/// What is switched on, for a person.
pub fn words(controls: &Controls) -> String {
    let Controls { wp, smep, smap, ac, nxe, pke, pkru, .. } = *controls;
    let mut text = String::new();
    for (on, name) in
        [(wp, "WP"), (nxe, "NXE"), (smep, "SMEP"), (smap, "SMAP"), (ac, "AC"), (pke, "PKE")]
    {
        if on {
            text += name;
            text.push(' ');
        }
    }
    if pke { text + &format!("PKRU={:#x}", pkru.0) } else { text }
}
