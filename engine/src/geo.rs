//! Geohashes, distances and search areas of the GEO commands.
//!
//! A point is a sorted set's score: 52 bits that interleave latitude and longitude, 26 bits each.
//! Everything here is IEEE arithmetic in a fixed order, and the trigonometry is that of the `libm`
//! crate, not of the platform: distances may be stored (STOREDIST) and decide what is found, so they
//! must be equal on all replicas to the last bit. (Redis uses the platform's; against it the last of
//! 16 digits may differ.)

use libm::{asin, cos, sin};
use std::f64::consts::PI;

/// Limits of what can be encoded, in degrees (EPSG:3857).
pub(crate) const LONGITUDE_MAX: f64 = 180.0;
pub(crate) const LATITUDE_MAX: f64 = 85.051_128_78;

/// Bits of each coordinate in a score.
const STEP_MAX: u32 = 26;
/// The mean radius of the Earth in metres that Redis uses.
const EARTH_RADIUS_M: f64 = 6_372_797.560_856;
/// Half of the Earth's circumference in the Mercator projection, in metres.
const MERCATOR_MAX_M: f64 = 20_037_726.37;
const RADIANS: f64 = PI / 180.0;

#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Point {
    pub(crate) longitude: f64,
    pub(crate) latitude: f64,
}

/// What is searched, around a point; lengths in metres.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum Shape {
    Circle { radius: f64 },
    Box { width: f64, height: f64 },
}

/// A rectangle of a grid with 2^step columns and rows: the scores that begin with these bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Cell {
    bits: u64,
    step: u32,
}

impl Point {
    /// `None` outside the limits (or if not a number).
    pub(crate) fn new(longitude: f64, latitude: f64) -> Option<Self> {
        let inside = |value: f64, max: f64| (-max..=max).contains(&value);
        (inside(longitude, LONGITUDE_MAX) && inside(latitude, LATITUDE_MAX))
            .then_some(Self { longitude, latitude })
    }

    /// The score of a point.
    pub(crate) fn encode(self) -> u64 {
        Cell::of(self, STEP_MAX).bits
    }

    /// The middle of the rectangle that a score stands for. Scores that no GEOADD made give some point
    /// as well.
    pub(crate) fn decode(score: f64) -> Self {
        let area = Area::of(Cell { bits: as_u64(score), step: STEP_MAX });
        let middle = |(min, max): (f64, f64), limit: f64| ((min + max) / 2.0).clamp(-limit, limit);
        Self {
            longitude: middle(area.longitude, LONGITUDE_MAX),
            latitude: middle(area.latitude, LATITUDE_MAX),
        }
    }

    /// Metres along the great circle (haversine).
    pub(crate) fn distance(self, other: Self) -> f64 {
        let v = sin((radians(other.longitude) - radians(self.longitude)) / 2.0);
        let (from, to) = (radians(self.latitude), radians(other.latitude));
        if v == 0.0 {
            return latitude_distance(self.latitude, other.latitude);
        }
        let u = sin((to - from) / 2.0);
        let a = u * u + cos(from) * cos(to) * v * v;
        2.0 * EARTH_RADIUS_M * asin(a.sqrt())
    }

    /// The standard geohash: 11 characters of base 32. Its latitudes reach to the poles, so the bits
    /// differ from the score's; the last of the 55 bits are not known and given as zeros.
    pub(crate) fn geohash(self) -> [u8; 11] {
        const ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
        let bits = interleave(
            fixed_point(self.latitude, 90.0, STEP_MAX),
            fixed_point(self.longitude, 180.0, STEP_MAX),
        );
        std::array::from_fn(|at| match at {
            10 => b'0',
            _ => ALPHABET[(bits >> (52 - 5 * (at + 1)) & 31) as usize],
        })
    }
}

impl Shape {
    /// The distance to a point of the shape around `center`; `None` for a point outside.
    pub(crate) fn distance_inside(self, center: Point, point: Point) -> Option<f64> {
        match self {
            Self::Circle { radius } => {
                let distance = center.distance(point);
                (distance <= radius).then_some(distance)
            }
            Self::Box { width, height } => {
                if latitude_distance(point.latitude, center.latitude) > height / 2.0 {
                    return None;
                }
                let across = Point { latitude: point.latitude, ..center };
                if point.distance(across) > width / 2.0 {
                    return None;
                }
                Some(center.distance(point))
            }
        }
    }

    /// Half of width and height.
    fn reach(self) -> (f64, f64) {
        match self {
            Self::Circle { radius } => (radius, radius),
            Self::Box { width, height } => (width / 2.0, height / 2.0),
        }
    }

    /// Metres from the centre to the farthest point.
    fn radius(self) -> f64 {
        match self {
            Self::Circle { radius } => radius,
            Self::Box { width, height } => {
                let (x, y) = (width / 2.0, height / 2.0);
                (x * x + y * y).sqrt()
            }
        }
    }

    /// The cells to look through for points of the shape, in Redis's order, which replies without
    /// ASC or DESC show: the centre's, then its neighbours as far as they are needed.
    pub(crate) fn cells(self, center: Point) -> Vec<Cell> {
        let bounds = self.bounds(center);
        let mut step = self.step(center.latitude);
        let mut cell = Cell::of(center, step);
        if step > 1 && !cell.neighbours_cover(bounds) {
            step -= 1;
            cell = Cell::of(center, step);
        }
        let area = Area::of(cell);
        // With two columns and rows every cell has every other for a neighbour.
        let all = step < 2;
        let needed = |(x, y): (i32, i32)| {
            let within = match x {
                0 => true,
                1 => area.longitude.1 <= bounds.longitude.1,
                _ => area.longitude.0 >= bounds.longitude.0,
            };
            within
                && match y {
                    0 => true,
                    1 => area.latitude.1 <= bounds.latitude.1,
                    _ => area.latitude.0 >= bounds.latitude.0,
                }
        };
        const ORDER: [(i32, i32); 9] =
            [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)];
        let mut cells: Vec<Cell> = Vec::with_capacity(ORDER.len());
        for by in ORDER.into_iter().filter(|&by| all || needed(by)) {
            let neighbour = cell.moved(by);
            // Around the whole Earth neighbours coincide.
            if cells.len() < 2 || cells.last() != Some(&neighbour) {
                cells.push(neighbour);
            }
        }
        cells
    }

    /// The area that holds the shape, in degrees; it may reach beyond the limits.
    fn bounds(self, center: Point) -> Area {
        let (width, height) = self.reach();
        let by_latitude = degrees(height / EARTH_RADIUS_M);
        let edge = |latitude: f64| degrees(width / EARTH_RADIUS_M / cos(radians(latitude)));
        // The edge nearer to the pole spans more degrees.
        let by_longitude = if center.latitude < 0.0 {
            edge(center.latitude - by_latitude)
        } else {
            edge(center.latitude + by_latitude)
        };
        Area {
            longitude: (center.longitude - by_longitude, center.longitude + by_longitude),
            latitude: (center.latitude - by_latitude, center.latitude + by_latitude),
        }
    }

    /// How fine a grid may be so that a cell and its neighbours hold the shape, estimated.
    fn step(self, latitude: f64) -> u32 {
        let mut range = self.radius();
        if range == 0.0 {
            return STEP_MAX;
        }
        let mut step = 1;
        while range < MERCATOR_MAX_M {
            range *= 2.0;
            step += 1;
        }
        step -= 2;
        if latitude.abs() > 66.0 {
            step -= 1;
            if latitude.abs() > 80.0 {
                step -= 1;
            }
        }
        step.clamp(1, STEP_MAX as i32) as u32
    }
}

/// Ranges of degrees.
#[derive(Clone, Copy, Debug)]
struct Area {
    longitude: (f64, f64),
    latitude: (f64, f64),
}

impl Area {
    fn of(cell: Cell) -> Self {
        let (latitude, longitude) = deinterleave(cell.bits);
        let range = |index: u32, limit: f64| {
            let columns = (1u64 << cell.step) as f64;
            let at = |index: f64| -limit + index / columns * (2.0 * limit);
            (at(f64::from(index)), at(f64::from(index) + 1.0))
        };
        Self { longitude: range(longitude, LONGITUDE_MAX), latitude: range(latitude, LATITUDE_MAX) }
    }
}

impl Cell {
    fn of(point: Point, step: u32) -> Self {
        let latitude = fixed_point(point.latitude, LATITUDE_MAX, step);
        let longitude = fixed_point(point.longitude, LONGITUDE_MAX, step);
        Self { bits: interleave(latitude, longitude), step }
    }

    /// Scores of the points inside: from the first, inclusive, to the second, exclusive.
    pub(crate) fn scores(self) -> (f64, f64) {
        let align = |bits: u64| (bits << (2 * (STEP_MAX - self.step))) as f64;
        (align(self.bits), align(self.bits + 1))
    }

    /// The cell so many columns to the east and rows to the north; the grid is joined at its ends.
    fn moved(self, (east, north): (i32, i32)) -> Self {
        let mask = (1u64 << self.step) - 1;
        let (latitude, longitude) = deinterleave(self.bits);
        // At the very end of the grid a point falls beyond its last column or row; a cell that is
        // not moved along an axis stays there, as in Redis, and finds nothing.
        let moved = |index: u32, by: i32| match by {
            0 => index,
            _ => (u64::from(index).wrapping_add_signed(by.into()) & mask) as u32,
        };
        Self { bits: interleave(moved(latitude, north), moved(longitude, east)), ..self }
    }

    /// Whether this cell and its neighbours reach over the bounds on each side.
    fn neighbours_cover(self, bounds: Area) -> bool {
        let area = |by| Area::of(self.moved(by));
        area((0, 1)).latitude.1 >= bounds.latitude.1
            && area((0, -1)).latitude.0 <= bounds.latitude.0
            && area((1, 0)).longitude.1 >= bounds.longitude.1
            && area((-1, 0)).longitude.0 <= bounds.longitude.0
    }
}

fn radians(degrees: f64) -> f64 {
    degrees * RADIANS
}

fn degrees(radians: f64) -> f64 {
    radians / RADIANS
}

fn latitude_distance(a: f64, b: f64) -> f64 {
    EARTH_RADIUS_M * (radians(b) - radians(a)).abs()
}

/// Which of 2^step columns of the range -limit to limit a coordinate falls into.
fn fixed_point(value: f64, limit: f64, step: u32) -> u32 {
    let offset = (value + limit) / (2.0 * limit);
    (offset * (1u64 << step) as f64) as u32
}

/// Bits of the latitude at the even places, of the longitude at the odd ones.
fn interleave(latitude: u32, longitude: u32) -> u64 {
    spread(latitude) | spread(longitude) << 1
}

fn deinterleave(bits: u64) -> (u32, u32) {
    (gather(bits), gather(bits >> 1))
}

/// Moves bit n to bit 2n.
fn spread(bits: u32) -> u64 {
    let mut x = u64::from(bits);
    for (shift, mask) in [
        (16, 0x0000_ffff_0000_ffff),
        (8, 0x00ff_00ff_00ff_00ff),
        (4, 0x0f0f_0f0f_0f0f_0f0f),
        (2, 0x3333_3333_3333_3333),
        (1, 0x5555_5555_5555_5555),
    ] {
        x = (x | x << shift) & mask;
    }
    x
}

/// Moves bit 2n to bit n, and drops the others.
fn gather(bits: u64) -> u32 {
    let mut x = bits & 0x5555_5555_5555_5555;
    for (shift, mask) in [
        (1, 0x3333_3333_3333_3333),
        (2, 0x0f0f_0f0f_0f0f_0f0f),
        (4, 0x00ff_00ff_00ff_00ff),
        (8, 0x0000_ffff_0000_ffff),
        (16, 0x0000_0000_ffff_ffff),
    ] {
        x = (x | x >> shift) & mask;
    }
    x as u32
}

/// C's conversion to a signed 64-bit number as x86-64 does it: out of range is the least one.
pub(crate) fn as_i64(value: f64) -> i64 {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if (-BEYOND..BEYOND).contains(&value) { value as i64 } else { i64::MIN }
}

/// C's conversion to an unsigned one as compilers for x86-64 make it.
fn as_u64(value: f64) -> u64 {
    const HALF: f64 = 9_223_372_036_854_775_808.0;
    if value >= HALF { as_i64(value - HALF) as u64 ^ 1 << 63 } else { as_i64(value) as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_come_back() {
        for (a, b) in [(0, 0), (1, 0), (0, 1), (0x3ff_ffff, 0x155_5555), (u32::MAX, 12345)] {
            assert_eq!(deinterleave(interleave(a, b)), (a, b));
        }
    }

    #[test]
    fn known_points() {
        // From the documentation of GEOADD, GEOHASH and GEODIST.
        let palermo = Point::new(13.361389, 38.115556).unwrap();
        let catania = Point::new(15.087269, 37.502669).unwrap();
        assert_eq!(palermo.encode(), 3_479_099_956_230_698);
        let stored = [palermo, catania].map(|point| Point::decode(point.encode() as f64));
        assert_eq!(&stored[0].geohash(), b"sqc8b49rny0");
        assert_eq!(&stored[1].geohash(), b"sqdtr74hyu0");
        assert_eq!(format!("{:.4}", stored[0].distance(stored[1])), "166274.1516");
        assert_eq!(Point::new(180.1, 0.0), None);
        assert_eq!(Point::new(0.0, -86.0), None);
        assert_eq!(Point::new(f64::NAN, 0.0), None);
    }

    /// The cells of a shape hold every point of it, except near the poles and the date line, where
    /// Redis's bounds do not reach around.
    #[test]
    fn cells_cover_their_shape() {
        let mut state = 5u64;
        let mut random = |min: f64, max: f64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            min + (state >> 11) as f64 / (1u64 << 53) as f64 * (max - min)
        };
        let mut inside = 0;
        for _ in 0..20_000 {
            let center = Point::new(random(-120.0, 120.0), random(-60.0, 60.0)).unwrap();
            let size = 10f64.powf(random(1.0, 5.9));
            let shape = if random(0.0, 1.0) < 0.5 {
                Shape::Circle { radius: size }
            } else {
                Shape::Box { width: size * random(0.2, 2.0), height: size }
            };
            let cells = shape.cells(center);
            for _ in 0..5 {
                let spread = size / 90_000.0;
                let point = Point::new(
                    (center.longitude + random(-spread, spread)).clamp(-179.9, 179.9),
                    (center.latitude + random(-spread, spread)).clamp(-85.0, 85.0),
                )
                .unwrap();
                if shape.distance_inside(center, point).is_some() {
                    inside += 1;
                    let score = point.encode() as f64;
                    let found = cells.iter().any(|cell| {
                        let (min, max) = cell.scores();
                        (min..max).contains(&score)
                    });
                    assert!(found, "{center:?} {shape:?} {point:?}");
                }
            }
        }
        assert!(inside > 20_000);
    }
}
