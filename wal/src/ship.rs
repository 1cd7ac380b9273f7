//! Pieces into objects: encode on the blocking pool, several PUTs in flight, each reported when it is durable.
//!
//! Bounded by a semaphore of bytes: the permit of a piece is given back when its object is durable, and the receiver stops reading
//! when there is none left. A crash loses nothing: what is not in the repository is still in the server's pg_wal, behind the slot.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pg::lsn::Lsn;
use pg::segment::SegmentSize;
use store::StoreError;
use store::crash::{self, CrashPoint};
use store::id::LineageId;
use store::repository::{Fence, Put, Writer};
use store::session::{Purpose, Session};
use store::wal_object;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::assemble::Piece;

/// Source of the time, microseconds since 1970.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// A session key of WAL is used for at most this long.
const SESSION_AGE_MAX: Duration = Duration::from_secs(86_400);
/// And for at most this many bytes of WAL.
const SESSION_BYTES_MAX: u64 = 64 << 30;

/// A piece that takes no longer to encode than to be handed to another thread: some tenths of a millisecond.
const ENCODED_AT_ONCE_BYTES: usize = 64 << 10;

/// Pieces that are encoded at once, on however many cores: what is encoded is in memory beside what it came from, under no permit. Two take
/// hundreds of MB a second, more than a server writes.
const ENCODERS_MAX: usize = 2;

/// What happened to a piece.
#[derive(Debug)]
pub struct Shipped {
    /// First byte.
    pub start: Lsn,
    /// Byte after the last.
    pub end: Lsn,
    /// A tail, or a whole range.
    pub tail: bool,
    /// Others have carried all of it.
    pub joined: bool,
    /// Bytes of the object; an error when it could not be made durable.
    pub outcome: Result<u64, StoreError>,
}

/// Ships the pieces of one lineage.
#[derive(Debug)]
pub struct Shipper {
    writer: Arc<Writer>,
    fence: Arc<Fence>,
    lineage: LineageId,
    size: SegmentSize,
    uploads: Arc<Semaphore>,
    encoders: Arc<Semaphore>,
    session: Arc<Session>,
    session_begun: Instant,
    session_bytes: u64,
    /// The recipients of which period it is sealed to.
    session_period: u64,
    done: mpsc::UnboundedSender<Shipped>,
    /// Ends with the shipper: what a session leaves behind is sent again by the next one, and must not hold memory beside it.
    tasks: JoinSet<()>,
    in_flight: usize,
    tails_in_flight: usize,
}

impl Shipper {
    /// A shipper and the receiving end of its reports. The channel holds at most as many reports as pieces that hold permits.
    ///
    /// # Errors
    /// No session key could be made.
    pub fn new(
        (writer, fence): (Arc<Writer>, Arc<Fence>),
        lineage: LineageId,
        size: SegmentSize,
        uploads_in_flight: usize,
    ) -> Result<(Self, mpsc::UnboundedReceiver<Shipped>), StoreError> {
        let (done, reports) = mpsc::unbounded_channel();
        let session_period = writer.repository().period_number();
        let session = Arc::new(writer.repository().begin_session(lineage, Purpose::Wal)?);
        let cores = std::thread::available_parallelism()
            .map_or(1, usize::from)
            .min(ENCODERS_MAX);
        let shipper = Shipper {
            writer,
            fence,
            lineage,
            size,
            uploads: Arc::new(Semaphore::new(uploads_in_flight.max(1))),
            encoders: Arc::new(Semaphore::new(cores)),
            session,
            session_begun: Instant::now(),
            session_bytes: 0,
            session_period,
            done,
            tasks: JoinSet::new(),
            in_flight: 0,
            tails_in_flight: 0,
        };
        Ok((shipper, reports))
    }

    /// Sends a piece on its way; `permit` is held until it is durable. `archived` is the end of what is contiguously durable now.
    ///
    /// # Errors
    /// A new session key was due and could not be made.
    pub fn ship(
        &mut self,
        mut piece: Piece,
        clock: &Clock,
        permit: Option<OwnedSemaphorePermit>,
        archived: Lsn,
    ) -> Result<(), StoreError> {
        piece.facts.archived = archived.is_valid().then_some(archived.as_u64());
        let bytes = piece.bytes.len() as u64;
        self.writer.refuse_revoked()?;
        let period = self.writer.repository().period_number();
        if self.session_begun.elapsed() > SESSION_AGE_MAX
            || self.session_bytes + bytes > SESSION_BYTES_MAX
            || self.session_period != period
        {
            self.session_period = period;
            self.session = Arc::new(self.writer.repository().begin_session(self.lineage, Purpose::Wal)?);
            self.session_begun = Instant::now();
            self.session_bytes = 0;
        }
        self.session_bytes += bytes;
        self.in_flight += 1;
        self.tails_in_flight += usize::from(piece.range.tail && !piece.joined);
        piece.range.epoch = self.writer.epoch();
        let encoding = Encoding {
            writer: Arc::clone(&self.writer),
            session: Arc::clone(&self.session),
            size: self.size,
            clock: Arc::clone(clock),
        };
        let (uploads, encoders) = (Arc::clone(&self.uploads), Arc::clone(&self.encoders));
        let (fence, done) = (Arc::clone(&self.fence), self.done.clone());
        self.tasks.spawn(async move {
            let (start, end, tail, joined) = (piece.range.start, piece.range.end, piece.range.tail, piece.joined);
            let outcome = put_piece(encoding, &fence, piece, (&uploads, &encoders)).await;
            drop(permit);
            // A closed channel means that the stream is being given up; the object is durable all the same.
            let _ = done.send(Shipped {
                start,
                end,
                tail,
                joined,
                outcome,
            });
        });
        Ok(())
    }

    /// A report has been taken.
    pub fn settle(&mut self, report: &Shipped) {
        while self.tasks.try_join_next().is_some() {}
        self.in_flight = self.in_flight.saturating_sub(1);
        self.tails_in_flight = self
            .tails_in_flight
            .saturating_sub(usize::from(report.tail && !report.joined));
    }

    /// Pieces on their way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Tails on their way.
    #[must_use]
    pub fn tails_in_flight(&self) -> usize {
        self.tails_in_flight
    }
}

/// What the encoding of a piece works with.
#[derive(Clone)]
struct Encoding {
    writer: Arc<Writer>,
    session: Arc<Session>,
    size: SegmentSize,
    clock: Clock,
}

impl Encoding {
    fn encode(&self, piece: Piece) -> Result<wal_object::EncodedWal, StoreError> {
        let (range, facts) = (&piece.range, piece.facts);
        wal_object::encode(
            &self.writer,
            &self.session,
            range,
            self.size,
            facts,
            &piece.bytes,
            (self.clock)(),
        )
    }

    /// A small piece at once; a large one where it holds nobody up, and no more of them than there are cores.
    async fn run(self, piece: Piece, encoders: &Semaphore) -> Result<wal_object::EncodedWal, StoreError> {
        if piece.bytes.len() <= ENCODED_AT_ONCE_BYTES {
            return self.encode(piece);
        }
        let Ok(_core) = encoders.acquire().await else {
            return Err(StoreError::Stage("WAL encoder"));
        };
        let encoded = tokio::task::spawn_blocking(move || self.encode(piece)).await;
        encoded.map_err(|_| StoreError::Stage("WAL encoder"))?
    }
}

/// A put that took longer is not taken for stored before it was asked again whether what we sign counts. Well within the three minutes that a
/// revocation leaves to who signs with the key.
const LATE: Duration = Duration::from_secs(60);

async fn put_piece(
    encoding: Encoding,
    fence: &Fence,
    piece: Piece,
    (uploads, encoders): (&Semaphore, &Semaphore),
) -> Result<u64, StoreError> {
    let Ok(_upload) = uploads.acquire().await else {
        return Err(StoreError::Stage("upload"));
    };
    crash::point(CrashPoint::BeforeEncode);
    let writer = Arc::clone(&encoding.writer);
    let encoded = encoding.run(piece, encoders).await?;
    let stored = encoded.bytes.len() as u64;
    fence.pass().await?;
    crash::point(CrashPoint::BeforePut);
    let begun = Instant::now();
    let put = writer.create(&encoded.name, encoded.bytes, encoded.digest).await?;
    crash::point(CrashPoint::AfterPut);
    // It came so late (the store was away, we were asleep) that our key may have been revoked before: then it does not count.
    if begun.elapsed() > LATE {
        writer.repository().refresh().await?;
        writer.refuse_revoked()?;
    }
    match put {
        Put::Created => Ok(stored),
        Put::Same => Ok(0),
    }
}
