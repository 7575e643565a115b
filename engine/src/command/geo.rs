//! Points in sorted sets: GEOADD, GEODIST, GEOHASH, GEOPOS and the searches. The geometry is in
//! `crate::geo`.

use super::zset::add_scored;
use super::zset_range::store;
use super::{Command, CommandResult, Ctx, is_option};
use crate::error::CommandError;
use crate::geo::{Point, Shape, as_i64};
use crate::num::{float_arg, int_arg, parse_f64};
use crate::value::zset::ZSet;
use std::cmp::Ordering;
use std::ops::Bound;

pub(super) const COMMANDS: &[Command] = &[
    Command::new("geoadd", geoadd),
    Command::new("geodist", geodist),
    Command::new("geohash", geohash),
    Command::new("geopos", geopos),
    Command::new("georadius", |ctx, args| radius(ctx, args, From::Point, true)),
    Command::new("georadius_ro", |ctx, args| radius(ctx, args, From::Point, false)),
    Command::new("georadiusbymember", |ctx, args| radius(ctx, args, From::Member, true)),
    Command::new("georadiusbymember_ro", |ctx, args| radius(ctx, args, From::Member, false)),
    Command::new("geosearch", geosearch),
    Command::new("geosearchstore", geosearchstore),
];

// ---- arguments -----------------------------------------------------------------------------------

fn point_arg(longitude: &[u8], latitude: &[u8]) -> Result<Point, CommandError> {
    let (longitude, latitude) = (float_arg(longitude)?, float_arg(latitude)?);
    Point::new(longitude, latitude).ok_or_else(|| {
        let (longitude, latitude) = (c_format(longitude), c_format(latitude));
        CommandError::Owned(format!("ERR invalid longitude,latitude pair {longitude},{latitude}"))
    })
}

/// C's `%f`.
fn c_format(value: f64) -> String {
    if value.is_infinite() { format!("{value}") } else { format!("{value:.6}") }
}

/// Metres in a unit.
fn unit_arg(unit: &[u8]) -> Result<f64, CommandError> {
    [("M", 1.0), ("KM", 1000.0), ("FT", 0.3048), ("MI", 1609.34)]
        .into_iter()
        .find_map(|(name, metres)| is_option(unit, name).then_some(metres))
        .ok_or(CommandError::Text("ERR unsupported unit provided. please use M, KM, FT, MI"))
}

/// A length before its unit is known.
fn length_arg(text: &[u8], error: &'static str) -> Result<f64, CommandError> {
    parse_f64(text).ok_or(CommandError::Text(error))
}

/// `radius unit`.
fn circle_arg(radius: &[u8], unit: &[u8]) -> Result<(Shape, f64), CommandError> {
    let radius = length_arg(radius, "ERR need numeric radius")?;
    if radius < 0.0 {
        return Err(CommandError::Text("ERR radius cannot be negative"));
    }
    let unit = unit_arg(unit)?;
    Ok((Shape::Circle { radius: radius * unit }, unit))
}

/// `width height unit`.
fn box_arg(width: &[u8], height: &[u8], unit: &[u8]) -> Result<(Shape, f64), CommandError> {
    let width = length_arg(width, "ERR need numeric width")?;
    let height = length_arg(height, "ERR need numeric height")?;
    if width < 0.0 || height < 0.0 {
        return Err(CommandError::Text("ERR height or width cannot be negative"));
    }
    let unit = unit_arg(unit)?;
    Ok((Shape::Box { width: width * unit, height: height * unit }, unit))
}

// ---- adding and asking ---------------------------------------------------------------------------

/// A ZADD with scores made of coordinates.
fn geoadd(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let is_flag = |arg: &&&[u8]| ["NX", "XX", "CH"].iter().any(|flag| is_option(arg, flag));
    let flags = args[2..].iter().take_while(is_flag).count();
    let (flags, triples) = args[2..].split_at(flags);
    let has = |flag: &str| flags.iter().any(|arg| is_option(arg, flag));
    let (triples, odd) = triples.as_chunks::<3>();
    if !odd.is_empty() || (has("NX") && has("XX")) {
        return Err(CommandError::Syntax);
    }
    let mut pairs = Vec::with_capacity(triples.len());
    for [longitude, latitude, member] in triples {
        pairs.push((point_arg(longitude, latitude)?.encode() as f64, *member));
    }
    add_scored(ctx, args[1], flags, &pairs)
}

fn geodist(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let unit = match args {
        [_, _, _, _] => 1.0,
        [_, _, _, _, unit] => unit_arg(unit)?,
        _ => return Err(CommandError::Syntax),
    };
    let distance = ctx.keys.zset(args[1])?.and_then(|zset| {
        let (from, to) = (position(zset, args[2])?, position(zset, args[3])?);
        Some(from.distance(to) / unit)
    });
    match distance {
        Some(distance) => ctx.reply.bulk(format!("{distance:.4}").as_bytes()),
        None => ctx.reply.null(),
    }
    Ok(())
}

fn position(zset: &ZSet, member: &[u8]) -> Option<Point> {
    zset.score(member).map(Point::decode)
}

fn geohash(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let zset = ctx.keys.zset(args[1])?;
    ctx.reply.array(args.len() - 2);
    for member in &args[2..] {
        let hash = zset.and_then(|zset| position(zset, member)).map(Point::geohash);
        ctx.reply.bulk_or_null(hash.as_ref().map(<[u8; 11]>::as_slice));
    }
    Ok(())
}

fn geopos(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    let zset = ctx.keys.zset(args[1])?;
    ctx.reply.array(args.len() - 2);
    for member in &args[2..] {
        match zset.and_then(|zset| position(zset, member)) {
            Some(point) => {
                ctx.reply.array(2);
                ctx.reply.human_double(point.longitude);
                ctx.reply.human_double(point.latitude);
            }
            None => ctx.reply.null_array(),
        }
    }
    Ok(())
}

// ---- searching -----------------------------------------------------------------------------------

/// How the old commands name the centre.
#[derive(Clone, Copy, PartialEq, Eq)]
enum From {
    Point,
    Member,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Ascending,
    Descending,
}

/// What a search is asked for.
#[derive(Default)]
struct Search<'a> {
    /// `None` while not given, or if the key does not exist and the centre is a member of it.
    center: Option<Point>,
    /// Shape and metres in the unit of replies.
    shape: Option<(Shape, f64)>,
    order: Option<Order>,
    /// 0: all.
    count: usize,
    any: bool,
    with_distance: bool,
    with_hash: bool,
    with_position: bool,
    destination: Option<&'a [u8]>,
    /// Store distances, not positions.
    store_distance: bool,
}

/// A point that was found.
struct Found {
    member: Vec<u8>,
    score: f64,
    point: Point,
    /// In metres.
    distance: f64,
}

/// GEORADIUS, GEORADIUSBYMEMBER and their read-only forms.
fn radius(ctx: &mut Ctx<'_>, args: &[&[u8]], from: From, may_store: bool) -> CommandResult {
    let key = args[1];
    let zset = ctx.keys.zset(key)?;
    let missing = zset.is_none();
    let mut search = Search::default();
    let mut rest = match from {
        From::Point => {
            search.center = Some(point_arg(args[2], args[3])?);
            search.shape = Some(circle_arg(args[4], args[5])?);
            &args[6..]
        }
        // Without the key, these arguments are not looked at.
        From::Member => {
            if let Some(zset) = zset {
                search.center = Some(member_arg(zset, args[2])?);
                search.shape = Some(circle_arg(args[3], args[4])?);
            }
            &args[5..]
        }
    };
    while let Some((&option, after)) = rest.split_first() {
        rest = after;
        if search.common_option(option, &mut rest)? {
            continue;
        }
        let store_distance = is_option(option, "STOREDIST");
        match rest.split_first() {
            Some((&destination, after))
                if may_store && (store_distance || is_option(option, "STORE")) =>
            {
                search.destination = Some(destination);
                search.store_distance = store_distance;
                rest = after;
            }
            _ => return Err(CommandError::Syntax),
        }
    }
    search.check("STORE option in GEORADIUS")?;
    search.check_any()?;
    search.run(ctx, key, missing, "georadiusstore")
}

fn geosearch(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    search(ctx, args, args[1], None, &args[2..])
}

fn geosearchstore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> CommandResult {
    search(ctx, args, args[2], Some(args[1]), &args[3..])
}

fn search<'a>(
    ctx: &mut Ctx<'_>,
    args: &[&[u8]],
    key: &[u8],
    destination: Option<&'a [u8]>,
    mut rest: &[&'a [u8]],
) -> CommandResult {
    let zset = ctx.keys.zset(key)?;
    let mut search = Search { destination, ..Search::default() };
    let (mut from_member, mut from_point, mut by_radius, mut by_box) = (false, false, false, false);
    while let Some((&option, after)) = rest.split_first() {
        rest = after;
        if search.common_option(option, &mut rest)? {
            continue;
        }
        if destination.is_some() && is_option(option, "STOREDIST") {
            search.store_distance = true;
            continue;
        }
        rest = match *rest {
            [member, ref rest @ ..] if !from_point && is_option(option, "FROMMEMBER") => {
                if let Some(zset) = zset {
                    search.center = Some(member_arg(zset, member)?);
                }
                from_member = true;
                rest
            }
            [x, y, ref rest @ ..] if !from_member && is_option(option, "FROMLONLAT") => {
                search.center = Some(point_arg(x, y)?);
                from_point = true;
                rest
            }
            [radius, unit, ref rest @ ..] if !by_box && is_option(option, "BYRADIUS") => {
                search.shape = Some(circle_arg(radius, unit)?);
                by_radius = true;
                rest
            }
            [width, height, unit, ref rest @ ..] if !by_radius && is_option(option, "BYBOX") => {
                search.shape = Some(box_arg(width, height, unit)?);
                by_box = true;
                rest
            }
            _ => return Err(CommandError::Syntax),
        };
    }
    search.check("GEOSEARCHSTORE")?;
    let name = String::from_utf8_lossy(args[0]);
    if !from_member && !from_point {
        return Err(CommandError::Owned(format!(
            "ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for {name}"
        )));
    }
    if !by_radius && !by_box {
        return Err(CommandError::Owned(format!(
            "ERR exactly one of BYRADIUS and BYBOX can be specified for {name}"
        )));
    }
    search.check_any()?;
    let missing = zset.is_none();
    search.run(ctx, key, missing, "geosearchstore")
}

fn member_arg(zset: &ZSet, member: &[u8]) -> Result<Point, CommandError> {
    position(zset, member).ok_or(CommandError::Text("ERR could not decode requested zset member"))
}

impl Search<'_> {
    /// Takes an option that all searches have, with its argument from `rest`; `false` if it is none.
    fn common_option(&mut self, option: &[u8], rest: &mut &[&[u8]]) -> Result<bool, CommandError> {
        match option {
            option if is_option(option, "WITHDIST") => self.with_distance = true,
            option if is_option(option, "WITHHASH") => self.with_hash = true,
            option if is_option(option, "WITHCOORD") => self.with_position = true,
            option if is_option(option, "ANY") => self.any = true,
            option if is_option(option, "ASC") => self.order = Some(Order::Ascending),
            option if is_option(option, "DESC") => self.order = Some(Order::Descending),
            option if is_option(option, "COUNT") => {
                let Some((count, after)) = rest.split_first() else { return Ok(false) };
                self.count = usize::try_from(int_arg(count)?)
                    .ok()
                    .filter(|&count| count > 0)
                    .ok_or(CommandError::Text("ERR COUNT must be > 0"))?;
                *rest = after;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn check(&self, what: &str) -> CommandResult {
        let details = self.with_distance || self.with_hash || self.with_position;
        if self.destination.is_some() && details {
            return Err(CommandError::Owned(format!(
                "ERR {what} is not compatible with WITHDIST, WITHHASH and WITHCOORD options"
            )));
        }
        Ok(())
    }

    fn check_any(&self) -> CommandResult {
        if self.any && self.count == 0 {
            return Err(CommandError::Text("ERR the ANY argument requires COUNT argument"));
        }
        Ok(())
    }

    fn run(
        self,
        ctx: &mut Ctx<'_>,
        key: &[u8],
        missing: bool,
        event: &'static str,
    ) -> CommandResult {
        let mut found = match (self.center, self.shape) {
            (Some(center), Some((shape, _))) if !missing => self.find(ctx, key, center, shape)?,
            _ => Vec::new(),
        };
        self.sort(&mut found);
        if self.count > 0 {
            found.truncate(self.count);
        }
        let unit = self.shape.map_or(1.0, |(_, unit)| unit);
        match self.destination {
            None => self.reply(ctx, &found, unit),
            Some(destination) => {
                let mut members = ZSet::new();
                for found in &found {
                    let score =
                        if self.store_distance { found.distance / unit } else { found.score };
                    members.insert(&found.member, score, ctx.limits);
                }
                store(ctx, destination, members, event);
            }
        }
        Ok(())
    }

    fn find(
        &self,
        ctx: &mut Ctx<'_>,
        key: &[u8],
        center: Point,
        shape: Shape,
    ) -> Result<Vec<Found>, CommandError> {
        let mut found = Vec::new();
        let enough = if self.any { self.count } else { usize::MAX };
        // Looked up a second time, but counted once.
        let Some(crate::value::ValueRef::ZSet(zset)) = ctx.keys.peek(key) else {
            return Ok(found);
        };
        for cell in shape.cells(center) {
            if found.len() >= enough {
                break;
            }
            let (min, max) = cell.scores();
            let ranks = zset.score_ranks((Bound::Included(min), Bound::Excluded(max)));
            zset.visit(ranks, false, |member, score| {
                if found.len() >= enough {
                    return;
                }
                let point = Point::decode(score);
                if let Some(distance) = shape.distance_inside(center, point) {
                    found.push(Found { member: member.to_vec(), score, point, distance });
                }
            });
        }
        Ok(found)
    }

    /// Points at the same distance stay in the order in which they were found.
    fn sort(&self, found: &mut [Found]) {
        let nearest_first =
            |a: &Found, b: &Found| a.distance.partial_cmp(&b.distance).unwrap_or(Ordering::Equal);
        match self.order {
            Some(Order::Ascending) => found.sort_by(nearest_first),
            Some(Order::Descending) => found.sort_by(|a, b| nearest_first(b, a)),
            // A limited number of points are the nearest ones.
            None if self.count > 0 && !self.any => found.sort_by(nearest_first),
            None => {}
        }
    }

    fn reply(&self, ctx: &mut Ctx<'_>, found: &[Found], unit: f64) {
        let details = [self.with_distance, self.with_hash, self.with_position];
        let details = details.iter().filter(|with| **with).count();
        ctx.reply.array(found.len());
        for Found { member, score, point, distance } in found {
            if details > 0 {
                ctx.reply.array(1 + details);
            }
            ctx.reply.bulk(member);
            if self.with_distance {
                ctx.reply.bulk(format!("{:.4}", distance / unit).as_bytes());
            }
            if self.with_hash {
                ctx.reply.int(as_i64(*score));
            }
            if self.with_position {
                ctx.reply.array(2);
                ctx.reply.human_double(point.longitude);
                ctx.reply.human_double(point.latitude);
            }
        }
    }
}
