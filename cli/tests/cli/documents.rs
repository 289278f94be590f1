//! The examples of `docs/cli.md` are what the tool answers.

use regex::Regex;

use crate::tool::Tool;

const DOCUMENT: &str = include_str!("../../../docs/cli.md");

/// What differs from one run to the other.
fn without_chance(text: &str) -> String {
    let patterns = [
        (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<id>"),
        (r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z", "<time>"),
        (r"\b[0-9a-f]{32}-[0-9]+", "<position>"),
        (r"\b[0-9]{13,16}\b", "<milliseconds>"),
        (r"[0-9.]+ (B|KiB|MiB)\b", "<size>"),
    ];
    let mut text = text.to_owned();
    for (pattern, name) in patterns {
        text = Regex::new(pattern).unwrap().replace_all(&text, name).into_owned();
    }
    // Columns are as wide as what is in them.
    text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n").collect()
}

/// The commands of all examples of a kind, each with what it answered. A comment before a block says who else runs it,
/// or why nobody does.
fn examples(kind: &str) -> Vec<(String, String)> {
    let block = Regex::new(&format!(r"(?s)(-->\n)?```{kind}\n(.*?)```")).unwrap();
    let mut examples: Vec<(String, String)> = Vec::new();
    for found in block.captures_iter(DOCUMENT).filter(|found| found.get(1).is_none()) {
        for line in found[2].lines() {
            match (line.strip_prefix("$ "), examples.last_mut()) {
                (Some(command), _) => examples.push((command.to_owned(), String::new())),
                (None, Some((_, answer))) => *answer += &format!("{line}\n"),
                (None, None) => panic!("an example begins with a command, not with {line}"),
            }
        }
    }
    examples
}

/// Runs the examples of a kind in their order in a folder, of which there must be so many. `members` are what
/// answers at the addresses that the document names.
pub(crate) fn run_examples(kind: &str, at_least: usize, members: &[String]) {
    let mut tool = Tool::new();
    let examples = examples(kind);
    assert!(examples.len() >= at_least, "only {} examples were found", examples.len());
    let addresses = (1..).map(|number| format!("http://10.0.0.{number}:2379")).zip(members);
    let addresses: Vec<_> = addresses.collect();
    // On a cluster it is a revision, of all that is in it.
    let number = Regex::new(r"\bcommit [0-9]+|(?m:^)[0-9]+ <time>").unwrap();
    let without_chance = |text: &str| match addresses.is_empty() {
        true => without_chance(text),
        false => number.replace_all(&without_chance(text), "<number>").into_owned(),
    };
    for (line, shown) in examples {
        let real = addresses.iter().fold(line.clone(), |line, (named, real)| line.replace(named, real));
        let answered = match (real.strip_prefix("export "), real.strip_prefix("keystead ")) {
            (Some(variable), _) => {
                let (name, value) = variable.split_once('=').unwrap();
                tool.set(name, value);
                String::new()
            }
            (None, Some(command)) => {
                let answer = tool.run(command);
                answer.out + &answer.err
            }
            (None, None) => panic!("an example is not understood: {line}"),
        };
        let answered =
            addresses.iter().fold(answered, |text, (named, real)| text.replace(real.as_str(), named));
        assert_eq!(without_chance(&answered), without_chance(&shown), "$ {line}\n{answered}");
    }
}

#[test]
fn the_examples_are_what_the_tool_answers() {
    run_examples("console", 30, &[]);
}

#[test]
fn every_command_and_exit_code_is_in_the_document() {
    let help = Tool::new().ok("--help");
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\nOptions:").next().unwrap();
    let name = Regex::new(r"(?m)^  ([a-z-]+) ").unwrap();
    let names: Vec<_> = name.captures_iter(commands).map(|found| found[1].to_owned()).collect();
    assert!(names.len() > 25, "{names:?}");
    for name in names.iter().filter(|name| *name != "help") {
        assert!(DOCUMENT.contains(&format!("`{name}")), "{name} is not in docs/cli.md");
    }
    for code in 0..=6 {
        assert!(DOCUMENT.contains(&format!("| {code} |")), "exit code {code} is not in docs/cli.md");
        assert!(help.contains(&format!("  {code}  ")), "exit code {code} is not in the help");
    }
}
