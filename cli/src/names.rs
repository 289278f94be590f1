//! [`Named`]: keys and aliases on the command line. Their names may look like options, and tenants choose them.
//!
//! A command takes its names in their places, or each by an option: never some this way and some that way, and always
//! as many as it needs. So where a word that was meant as a name is an option to the parser, a name is missing and the
//! command is refused. What that does not exclude, [`find_ambiguous`] does; but in `show NAME --json` the name `--` can't be
//! told from the two hyphens behind which all words are names.

use std::ffi::OsString;
use std::fmt;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args, Command, FromArgMatches};
use keystead::{Alias, KeyAlias};

use crate::values::{KeyName, parse_name};

/// The group of the names in places, and that of those by options.
const IN_PLACES: &str = "names in places";
const BY_OPTIONS: &str = "names by options";
/// The place of the names behind `--`, where there may be any number.
const MORE: &str = "NAMES";

/// How to write a name so that it can't be anything else.
pub(crate) const HOW_TO_NAME: &str =
    "a name that looks like an option is written as --key=NAME or --alias=NAME, or behind --";

/// What is named: where, by which option, and what the text becomes.
pub(crate) trait Slot {
    type Value: Clone + Send + Sync + 'static;
    /// The places, as the help names them.
    const PLACES: &'static [&'static str];
    /// The option in their stead.
    const LONG: &'static str;
    /// The places and the option, of which one is needed.
    const GROUP: &'static str;
    const HELP: &'static str;
    /// Whether there may be any number: by the option again and again, or behind `--`.
    const ANY_NUMBER: bool = false;
    /// Whether the command needs it, whatever else it is given.
    const REQUIRED: bool = true;

    fn parse(text: &str) -> Result<Self::Value, String>;
}

/// Names that were given in their places or by an option.
pub(crate) struct Named<S: Slot>(Vec<S::Value>);

impl<S: Slot> Named<S> {
    /// Of what the command needs.
    pub(crate) fn get(&self) -> &S::Value {
        self.given().expect("the parser demands it")
    }

    pub(crate) fn given(&self) -> Option<&S::Value> {
        self.0.first()
    }

    pub(crate) fn all(&self) -> &[S::Value] {
        &self.0
    }
}

impl<S: Slot> FromArgMatches for Named<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let more = if S::ANY_NUMBER { &[MORE][..] } else { &[] };
        let ids = S::PLACES.iter().chain(more).chain(&[S::LONG]);
        let values: Vec<S::Value> = ids.filter_map(|id| matches.get_many(id)).flatten().cloned().collect();
        let wanted = S::PLACES.len();
        if !S::ANY_NUMBER && !values.is_empty() && values.len() != wanted {
            let message = format!("{wanted} names are needed here, not {}; {HOW_TO_NAME}\n", values.len());
            return Err(clap::Error::raw(ErrorKind::WrongNumberOfValues, message));
        }
        Ok(Self(values))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        Self::from_arg_matches(matches).map(|new| *self = new)
    }
}

impl<S: Slot> Args for Named<S> {
    fn augment_args(command: Command) -> Command {
        let parse: fn(&str) -> Result<S::Value, String> = S::parse;
        let mut all = ArgGroup::new(S::GROUP).required(S::REQUIRED).multiple(true);
        let mut command = command;
        for place in S::PLACES {
            let arg = Arg::new(*place).value_name(*place).help(S::HELP);
            command = command.arg(arg.allow_hyphen_values(true).value_parser(parse));
            command = join(command, IN_PLACES, place);
            all = all.arg(*place);
        }
        if S::ANY_NUMBER {
            let arg = Arg::new(MORE).help("Any number of them, all behind --").num_args(1..).last(true);
            command = command.arg(arg.value_parser(parse).conflicts_with_all(S::PLACES));
            command = join(command, IN_PLACES, MORE);
            all = all.arg(MORE);
        }
        let repeated = S::ANY_NUMBER || S::PLACES.len() > 1;
        let arg = Arg::new(S::LONG).long(S::LONG).value_name("NAME").allow_hyphen_values(true);
        let arg = arg.action(if repeated { ArgAction::Append } else { ArgAction::Set });
        let again = if repeated { "; give it for each" } else { "" };
        let places = S::PLACES.join(" and ");
        let help =
            format!("In the place of {places}: what comes next is a name, whatever it looks like{again}");
        command = command.arg(arg.help(help).value_parser(parse));
        join(command, BY_OPTIONS, S::LONG).group(all.arg(S::LONG))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

/// Puts an argument into one of the two groups, which exclude each other.
fn join(command: Command, group: &'static str, arg: &'static str) -> Command {
    if command.get_groups().any(|there| there.get_id() == group) {
        return command.mut_group(group, |there| there.arg(arg));
    }
    let new = ArgGroup::new(group).multiple(true).arg(arg);
    command.group(if group == IN_PLACES { new.conflicts_with(BY_OPTIONS) } else { new })
}

/// The command whose names a line of words is about, if it takes any.
pub(crate) fn command_with_names<'a>(program: &'a Command, words: &[OsString]) -> Option<&'a Command> {
    let command = Walk::over(program, words).last().map_or(program, |step| step.command);
    command.get_groups().any(|group| group.get_id() == IN_PLACES).then_some(command)
}

/// Two options of which the second is the name that the first was given: `disable --key --json` may as well be the key
/// `--key`, and `create --alias --tag x` the key `--alias` with a tag.
pub(crate) struct Ambiguous(String, String);

impl fmt::Display for Ambiguous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(option, name) = self;
        write!(f, "{option} {name} is two options, or an option and a name: write {option}={name} for a name")
    }
}

/// The first such pair of a line that the parser took.
pub(crate) fn find_ambiguous(program: &Command, words: &[OsString]) -> Option<Ambiguous> {
    Walk::over(program, words).find_map(|step| {
        let (option, value) = (step.option?, step.value?);
        let is_pair = option.is_allow_hyphen_values_set() && option_of(step.command, value).is_some();
        is_pair.then(|| Ambiguous(step.word.to_string_lossy().into(), value.to_string_lossy().into()))
    })
}

/// The words of a line up to `--`, as the parser takes them.
struct Walk<'a, 'w> {
    command: &'a Command,
    words: std::slice::Iter<'w, OsString>,
}

/// A word, the option that it is, and the value that it takes from the next word.
struct Step<'a, 'w> {
    command: &'a Command,
    word: &'w OsString,
    option: Option<&'a Arg>,
    value: Option<&'w OsString>,
}

impl<'a, 'w> Walk<'a, 'w> {
    fn over(program: &'a Command, words: &'w [OsString]) -> Self {
        Self { command: program, words: words.iter() }
    }
}

impl<'a, 'w> Iterator for Walk<'a, 'w> {
    type Item = Step<'a, 'w>;

    fn next(&mut self) -> Option<Step<'a, 'w>> {
        let word = self.words.next().filter(|word| *word != "--")?;
        let option = option_of(self.command, word);
        let value = if option.is_some_and(takes_value) { self.words.next() } else { None };
        if option.is_none()
            && let Some(command) = self.command.find_subcommand(word)
        {
            self.command = command;
        }
        Some(Step { command: self.command, word, option, value })
    }
}

/// The option that a word is, all of it.
fn option_of<'a>(command: &'a Command, word: &OsString) -> Option<&'a Arg> {
    let word = word.to_str()?;
    command.get_arguments().find(|arg| match word.strip_prefix("--") {
        Some(long) => arg.get_long() == Some(long),
        None => arg.get_short().is_some_and(|short| word.strip_prefix('-') == Some(&*short.to_string())),
    })
}

/// Whether the next word is the option's.
fn takes_value(option: &Arg) -> bool {
    option.get_action().takes_values() && !option.is_require_equals_set()
}

/// The key that a command is about.
pub(crate) struct OneKey;

impl Slot for OneKey {
    type Value = KeyName;
    const PLACES: &'static [&'static str] = &["KEY"];
    const LONG: &'static str = "key";
    const GROUP: &'static str = "the key";
    const HELP: &'static str = "The key";

    fn parse(text: &str) -> Result<KeyName, String> {
        text.parse()
    }
}

/// A key, or what else the command is about.
pub(crate) struct PerhapsKey;

impl Slot for PerhapsKey {
    type Value = KeyName;
    const PLACES: &'static [&'static str] = OneKey::PLACES;
    const LONG: &'static str = OneKey::LONG;
    const GROUP: &'static str = OneKey::GROUP;
    const HELP: &'static str = "The key; one that is gone is named by its id";
    const REQUIRED: bool = false;

    fn parse(text: &str) -> Result<KeyName, String> {
        text.parse()
    }
}

/// The name that a key is to have.
pub(crate) struct NewKeyAlias;

impl Slot for NewKeyAlias {
    type Value = KeyAlias;
    const PLACES: &'static [&'static str] = &["KEY_ALIAS"];
    const LONG: &'static str = "key-alias";
    const GROUP: &'static str = "the new name";
    const HELP: &'static str = "The key's own name, which it gets";

    fn parse(text: &str) -> Result<KeyAlias, String> {
        parse_name(text)
    }
}

/// The alias that a command is about.
pub(crate) struct OneAlias;

impl Slot for OneAlias {
    type Value = Alias;
    const PLACES: &'static [&'static str] = &["ALIAS"];
    const LONG: &'static str = "alias";
    const GROUP: &'static str = "the alias";
    const HELP: &'static str = "The alias";

    fn parse(text: &str) -> Result<Alias, String> {
        parse_name(text)
    }
}

/// The aliases of which there may be several.
pub(crate) struct AnyAliases;

impl Slot for AnyAliases {
    type Value = Alias;
    const PLACES: &'static [&'static str] = OneAlias::PLACES;
    const LONG: &'static str = OneAlias::LONG;
    const GROUP: &'static str = OneAlias::GROUP;
    const HELP: &'static str = "The alias; if there are several, put -- before them";
    const ANY_NUMBER: bool = true;

    fn parse(text: &str) -> Result<Alias, String> {
        parse_name(text)
    }
}

/// An alias, or its URN.
pub(crate) struct AliasOrUrn;

impl Slot for AliasOrUrn {
    type Value = String;
    const PLACES: &'static [&'static str] = OneAlias::PLACES;
    const LONG: &'static str = OneAlias::LONG;
    const GROUP: &'static str = OneAlias::GROUP;
    const HELP: &'static str = "The alias, or its URN";

    fn parse(text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }
}

/// Two aliases, or two keys.
pub(crate) struct Both;

impl Slot for Both {
    type Value = String;
    const PLACES: &'static [&'static str] = &["ONE", "OTHER"];
    const LONG: &'static str = "alias";
    const GROUP: &'static str = "the alias";
    const HELP: &'static str = "An alias; with --key-aliases a key";
    const REQUIRED: bool = false;

    fn parse(text: &str) -> Result<String, String> {
        Ok(text.to_owned())
    }
}
