//! The size of the program that RE2 makes of an expression: Envoy refuses one of more than 100 instructions.
//!
//! RE2's steps are repeated as far as they change the number: common beginnings of alternatives are factored out, counts are written
//! out, upper and lower case share an instruction, and in the end each list of alternatives loses its jumps.
//! Pure.

use std::collections::BTreeSet;
use std::ops::Range;

use regex_syntax::hir::{Class, Hir, HirKind, Repetition};

/// Largest program that is counted to the end.
const MAX_INSTRUCTIONS: usize = 20_000;

/// The number of instructions, or `None` beyond all measure. The expression is one of bytes, its groups captured.
pub(super) fn instructions(hir: &Hir) -> Option<usize> {
    let mut program = Program { code: vec![Code::End] };
    let (hir, anchored) = anchors(hir);
    let matched = program.push(Code::End)?;
    let start = program.add(&hir, matched)?;
    let mut unanchored = start;
    if !anchored {
        // A loop over any byte, in front.
        let any = program.push(Code::One(0))?;
        unanchored = program.push(Code::Fork(start, any))?;
        program.code[any] = Code::One(unanchored);
    }
    Some(program.flat(start, unanchored))
}

/// An expression without the anchor in front of it, and whether there was one. (One at the end is no instruction either.)
fn anchors(hir: &Hir) -> (Hir, bool) {
    let is = |hir: &Hir, look| matches!(hir.kind(), HirKind::Look(found) if *found == look);
    let HirKind::Concat(parts) = hir.kind() else { return (hir.clone(), false) };
    let mut parts = parts.as_slice();
    let front = parts.first().is_some_and(|first| is(first, regex_syntax::hir::Look::Start));
    parts = &parts[usize::from(front)..];
    let back = parts.last().is_some_and(|last| is(last, regex_syntax::hir::Look::End));
    parts = &parts[..parts.len() - usize::from(back)];
    (Hir::concat(parts.to_vec()), front)
}

#[derive(Clone, Copy)]
enum Code {
    End,
    /// A byte, a mark of a group or a condition, and what comes after it.
    One(usize),
    Fork(usize, usize),
}

struct Program {
    code: Vec<Code>,
}

/// The first copy of a repeated expression: its instructions, where it begins and what comes after it.
struct Copied {
    code: Range<usize>,
    start: usize,
    next: usize,
}

#[derive(Default)]
struct Copies(Option<Copied>);

impl Program {
    fn push(&mut self, code: Code) -> Option<usize> {
        self.code.push(code);
        (self.code.len() < MAX_INSTRUCTIONS).then(|| self.code.len() - 1)
    }

    /// The beginning of an expression that goes on at `next`.
    fn add(&mut self, hir: &Hir, next: usize) -> Option<usize> {
        match hir.kind() {
            HirKind::Empty => Some(next),
            HirKind::Look(_) => self.push(Code::One(next)),
            HirKind::Literal(literal) => {
                literal.0.iter().try_fold(next, |next, _| self.push(Code::One(next)))
            }
            HirKind::Class(class) => {
                let ranges =
                    (0..ranges(class)).map(|_| self.push(Code::One(next))).collect::<Option<Vec<_>>>()?;
                self.forks(&ranges)
            }
            HirKind::Capture(group) => {
                let end = self.push(Code::One(next))?;
                let inside = self.add(&group.sub, end)?;
                self.push(Code::One(inside))
            }
            HirKind::Concat(parts) => parts.iter().rev().try_fold(next, |next, part| self.add(part, next)),
            HirKind::Alternation(branches) => self.alternatives(branches, next),
            HirKind::Repetition(repetition) => self.repetition(repetition, next),
        }
    }

    /// Alternatives. Those next to each other that begin alike share their beginning.
    ///
    /// `open` is the path to the branch before: every place on it where a branch left it.
    fn alternatives(&mut self, branches: &[Hir], next: usize) -> Option<usize> {
        let mut open = vec![Shared { depth: 0, starts: Vec::new() }];
        let (mut branch, mut following) = (Vec::new(), Vec::new());
        let mut branches = branches.iter();
        pieces(branches.next()?, &mut branch);
        loop {
            let more = branches.next();
            following.clear();
            more.into_iter().for_each(|more| pieces(more, &mut following));
            let alike = branch.iter().zip(&following).take_while(|(one, other)| one == other).count();
            if open.last()?.depth < alike {
                open.push(Shared { depth: alike, starts: Vec::new() });
            }
            let deepest = open.last_mut()?;
            let rest = branch.get(deepest.depth..)?;
            let start = self.start(rest, next)?;
            deepest.add(start);
            // What the next branch does not share ends here.
            while let Some(ended) = open.pop_if(|shared| shared.depth > alike) {
                if open.last()?.depth < alike {
                    open.push(Shared { depth: alike, starts: Vec::new() });
                }
                let before = open.last_mut()?;
                let fork = self.starts(&ended.starts, next)?;
                before.add(Start::At(self.sequence(branch.get(before.depth..ended.depth)?, fork)?));
            }
            if more.is_none() {
                return self.starts(&open.pop()?.starts, next);
            }
            std::mem::swap(&mut branch, &mut following);
        }
    }

    fn start(&mut self, pieces: &[Piece<'_>], next: usize) -> Option<Start> {
        if let [piece] = pieces
            && let Some(single) = piece.single()
        {
            return Some(Start::Single(single));
        }
        self.sequence(pieces, next).map(Start::At)
    }

    fn starts(&mut self, starts: &[Start], next: usize) -> Option<usize> {
        let starts = starts.iter().map(|start| match start {
            Start::At(at) => Some(*at),
            Start::Single(hir) => self.add(hir, next),
        });
        let starts = starts.collect::<Option<Vec<_>>>()?;
        self.forks(&starts)
    }

    fn sequence(&mut self, pieces: &[Piece<'_>], next: usize) -> Option<usize> {
        pieces.iter().rev().try_fold(next, |next, piece| match piece {
            Piece::Byte(_) => self.push(Code::One(next)),
            Piece::Other(hir) => self.add(hir, next),
        })
    }

    fn forks(&mut self, starts: &[usize]) -> Option<usize> {
        let (first, rest) = starts.split_first()?;
        rest.iter().try_fold(*first, |before, start| self.push(Code::Fork(before, *start)))
    }

    fn repetition(&mut self, repetition: &Repetition, next: usize) -> Option<usize> {
        let sub = &repetition.sub;
        let nullable = sub.properties().minimum_len() == Some(0);
        let mut start = next;
        match repetition.max {
            None if repetition.min == 0 && nullable => {
                let plus = self.plus(sub, next)?;
                return self.push(Code::Fork(plus, next));
            }
            None if repetition.min == 0 => {
                let fork = self.push(Code::Fork(0, next))?;
                let inside = self.add(sub, fork)?;
                self.code[fork] = Code::Fork(inside, next);
                return Some(fork);
            }
            None => start = self.plus(sub, next)?,
            Some(max) => {
                let mut copies = Copies::default();
                for _ in repetition.min..max {
                    let inside = self.copy(&mut copies, sub, start)?;
                    start = self.push(Code::Fork(inside, next))?;
                }
            }
        }
        let copies = repetition.min - u32::from(repetition.max.is_none());
        let mut made = Copies::default();
        (0..copies).try_fold(start, |next, _| self.copy(&mut made, sub, next))
    }

    /// One more copy of a repeated expression. Only the first one is made of the expression, so that
    /// the work is that of the program.
    fn copy(&mut self, copies: &mut Copies, sub: &Hir, next: usize) -> Option<usize> {
        let Some(first) = &copies.0 else {
            let begin = self.code.len();
            let start = self.add(sub, next)?;
            copies.0 = Some(Copied { code: begin..self.code.len(), start, next });
            return Some(start);
        };
        let offset = self.code.len() - first.code.start;
        let moved = |at: usize| if at == first.next { next } else { at + offset };
        for at in first.code.clone() {
            let code = match self.code[at] {
                Code::End => Code::End,
                Code::One(to) => Code::One(moved(to)),
                Code::Fork(left, right) => Code::Fork(moved(left), moved(right)),
            };
            self.push(code)?;
        }
        Some(moved(first.start))
    }

    fn plus(&mut self, sub: &Hir, next: usize) -> Option<usize> {
        let fork = self.push(Code::Fork(0, next))?;
        let inside = self.add(sub, fork)?;
        self.code[fork] = Code::Fork(inside, next);
        Some(inside)
    }

    /// The number of instructions when each list of alternatives is one without jumps, as RE2's program is in the end.
    fn flat(&self, start: usize, unanchored: usize) -> usize {
        // Where a list begins: behind each instruction that consumes or asks something.
        let mut roots = BTreeSet::from([0, start, unanchored]);
        let mut before: Vec<Vec<usize>> = vec![Vec::new(); self.code.len()];
        for at in self.reachable(unanchored) {
            match self.code[at] {
                Code::One(next) => {
                    roots.insert(next);
                }
                Code::Fork(left, right) => {
                    before[left].push(at);
                    before[right].push(at);
                }
                Code::End => {}
            }
        }
        // And where two lists meet.
        for root in roots.clone().into_iter().rev().filter(|root| *root != start && *root != unanchored) {
            let list = self.list(root, &roots);
            for at in &list {
                if before[*at].iter().any(|other| !list.contains(other)) {
                    roots.insert(*at);
                }
            }
        }
        let emitted = |root: &usize| {
            let list = self.list(*root, &roots);
            // A jump into another list is an instruction; a fork is none.
            list.iter()
                .filter(|at| *at != root && roots.contains(at) || !matches!(self.code[**at], Code::Fork(..)))
                .count()
        };
        roots.iter().map(emitted).sum()
    }

    /// What a list holds: everything without consuming, up to the beginnings of others.
    fn list(&self, root: usize, roots: &BTreeSet<usize>) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![root];
        while let Some(at) = waiting.pop() {
            if !found.insert(at) || at != root && roots.contains(&at) {
                continue;
            }
            if let Code::Fork(left, right) = self.code[at] {
                waiting.extend([left, right]);
            }
        }
        found
    }

    fn reachable(&self, from: usize) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        let mut waiting = vec![from];
        while let Some(at) = waiting.pop() {
            if !found.insert(at) {
                continue;
            }
            match self.code[at] {
                Code::One(next) => waiting.push(next),
                Code::Fork(left, right) => waiting.extend([left, right]),
                Code::End => {}
            }
        }
        found
    }
}

/// The instructions of a class: one a range; where upper and lower case are alike, one for both.
fn ranges(class: &Class) -> usize {
    let Class::Bytes(class) = class else { return 1 };
    let inside = |byte: u8| class.ranges().iter().any(|range| (range.start()..=range.end()).contains(&byte));
    let folds = (b'A'..=b'Z').all(|byte| inside(byte) == inside(byte.to_ascii_lowercase()));
    let upper = |start: u8, end: u8| start >= b'A' && end <= b'Z';
    let count = class.ranges().iter().filter(|range| !(folds && upper(range.start(), range.end()))).count();
    count.max(1)
}

/// A part of a branch. A literal is its bytes.
#[derive(Clone, Copy, PartialEq)]
enum Piece<'h> {
    Byte(u8),
    Other(&'h Hir),
}

impl Piece<'_> {
    /// The class of a piece that consumes one byte.
    fn single(self) -> Option<Hir> {
        match self {
            Piece::Byte(byte) => Some(Hir::literal([byte])),
            Piece::Other(hir) => matches!(hir.kind(), HirKind::Class(_)).then(|| hir.clone()),
        }
    }
}

fn pieces<'h>(hir: &'h Hir, out: &mut Vec<Piece<'h>>) {
    match hir.kind() {
        HirKind::Empty => {}
        HirKind::Literal(literal) => out.extend(literal.0.iter().copied().map(Piece::Byte)),
        HirKind::Concat(parts) => parts.iter().for_each(|part| pieces(part, out)),
        _ => out.push(Piece::Other(hir)),
    }
}

/// Where one of several alternatives begins.
enum Start {
    At(usize),
    /// One byte. Those next to each other become one class.
    Single(Hir),
}

/// Alternatives that have their first `depth` pieces in common.
struct Shared {
    depth: usize,
    starts: Vec<Start>,
}

impl Shared {
    fn add(&mut self, start: Start) {
        match (self.starts.as_mut_slice(), start) {
            // The library makes a class of single bytes.
            ([.., Start::Single(last)], Start::Single(hir)) => {
                *last = Hir::alternation(vec![last.clone(), hir]);
            }
            // Equal branches: two of them count like any number.
            ([.., Start::At(one), Start::At(last)], Start::At(at)) if *one == at && *last == at => {}
            (_, start) => self.starts.push(start),
        }
    }
}
