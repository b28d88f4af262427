//! What people read: the reference file with every key explained, the values in force, and what to
//! write in place of a key that does not exist.

use super::fault::Fault;
use super::layers::Layers;
use super::raw::{RawConfig, Secrets, section_docs};

const HEADER: &str = "\
# Every setting of a node, with its default. Written by `headcount config docs`; a test holds it to
# what the binary does. A node's own file needs only what differs, and at least node.region.
#
# Over the file goes the environment, HEADCOUNT__SECTION__KEY (as HEADCOUNT__NODE__REGION=eu-west-1),
# and over that flags, --set section.key=value.
";

const APPS: &str = "
# Tenants and their keys. There are none by default, and without one nobody can report or read. A
# key is used as `app.key:secret`.
#
# [[app]]
# id = \"shop\"
# # Whether the channel [meta]channel.lifecycle carries channel.occupancy too. Event streams and
# # Watch carry it to whoever asks for it, in any case.
# lifecycle.occupancy = true
# # What the app may do, where [limits] is not right for it: any key of that section.
# limits.channel_messages_per_second = 200
# limits.app_requests_per_second = 500
#
# [[app.key]]
# id = \"backend\"
# secret = \"at least 20 random characters\"
# # What the key may do: operations by channel pattern, as a table or as JSON text.
# capability = { \"[*]*\" = [\"*\"] }
# # False refuses the key, with every token that it ever signed.
# enabled = true
";

/// Returns the reference: a file with every setting, its default and what it means.
#[must_use]
pub fn reference() -> String {
    let mut text = HEADER.to_owned();
    for section in section_docs() {
        text.push('\n');
        comment(&mut text, &section.about);
        text.push_str(&format!("[{}]\n", section.section));
        for key in section.keys {
            comment(&mut text, &key.about);
            if let Some((low, high)) = key.range {
                comment(&mut text, &format!("From {low} to {high}."));
            }
            text.push_str(&format!("{} = {}\n", key.key, key.default));
        }
    }
    text.push_str(APPS);
    text
}

fn comment(text: &mut String, about: &str) {
    for line in about.lines() {
        text.push_str("# ");
        text.push_str(line);
        text.push('\n');
    }
}

/// Returns the values in force as a file, secrets masked.
#[must_use]
pub fn secrets_masked(raw: &RawConfig) -> String {
    toml::to_string(&raw.to_table(Secrets::Masked)).unwrap_or_default()
}

/// Reports what was written and is no setting, with what there is instead.
pub(super) fn unknown_keys(layers: &Layers, faults: &mut Vec<Fault>) {
    let docs = section_docs();
    for (section, key, origin) in layers.rest() {
        let known = docs.iter().find(|known| known.section == section);
        let what = match known {
            Some(known) => {
                let keys: Vec<&str> = known.keys.iter().map(|key| key.key).collect();
                format!("unknown key; [{section}] has {}", keys.join(", "))
            }
            None => {
                let sections: Vec<&str> = docs.iter().map(|known| known.section).collect();
                format!(
                    "unknown section; there are {}, and [[app]]",
                    sections.join(", ")
                )
            }
        };
        let key = format!("{section}.{key}");
        faults.push(Fault {
            key,
            origin: origin.clone(),
            what,
        });
    }
}
