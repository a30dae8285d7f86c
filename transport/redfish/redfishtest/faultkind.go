package redfishtest

// FaultKind is something that goes wrong.
type FaultKind string

// Faults of connections.
const (
	RefuseConnections FaultKind = "refuse connections" // nobody listens; does not count
	ResetConnections  FaultKind = "reset connections"  // new ones are reset before a byte
	SingleConnection  FaultKind = "single connection"  // new ones are reset while another is open
	ResetAt           FaultKind = "reset at"           // the connection is reset when Bytes of a body have come in
	StallAt           FaultKind = "stall at"           // from Bytes of a body on nothing is read, for Delay or until the connection ends
	Slow              FaultKind = "slow"               // answers take Delay longer
)

// Faults of answers. The request has no other effect.
const (
	Unauthorized FaultKind = "unauthorized"                // 401, and the session is gone
	Transient401 FaultKind = "unauthorized, session stays" // 401, and the session is as good as before
	Unavailable  FaultKind = "unavailable"                 // 503 with Retry-After: Delay, in whole seconds and at least 0
	NotJSON      FaultKind = "not JSON"                    // 400 with a page in HTML
	EmptyError   FaultKind = "empty error"                 // 400 without a body
	Refuses      FaultKind = "refuses"                     // Status, or 502, with MessageID or without a body; Retry-After if Delay is a second or more
	EarlyAnswer  FaultKind = "early answer"                // Status, or 413, with MessageID or without a body, when Bytes of the body have come in
	Redirect     FaultKind = "redirect"                    // Status, or 308, to the same resource, with a slash at its end or without one
	RedirectAway FaultKind = "redirect away"               // Status, or 308, to Location, on another host
	Oversized    FaultKind = "oversized"                   // 200 with valid JSON of Bytes, or 64 MiB
	Deep         FaultKind = "deep"                        // 200 with JSON of Bytes levels, or 100000
	SessionLimit FaultKind = "session limit"               // logins end in SessionLimitExceeded
)

// Faults of answers to requests that are carried out.
const (
	ResetAnswered    FaultKind = "reset answered"    // the connection is reset instead of an answer
	AnswersOtherwise FaultKind = "answers otherwise" // Status, or 502, with Location and MessageID where they are set, and nothing else
	ForgetsLocation  FaultKind = "no Location"       // answers have no Location header
)

// Faults of updates.
const (
	Busy               FaultKind = "busy"                    // a flash is in progress, whatever is asked
	BadSignature       FaultKind = "bad signature"           // UpdateSignatureValidationFailed
	FlashFails         FaultKind = "flash fails"             // MessageID, or FirmwareFlashFailed, when it writes
	PullFails          FaultKind = "pull fails"              // the service cannot reach the image
	PullMissing        FaultKind = "pull of what is missing" // the service asks for a file beside the image, and gets what there is: 404
	PullTruncated      FaultKind = "truncated pull"          // the service stops reading the image after Bytes
	NeverPulls         FaultKind = "never pulls"             // the service never asks for the image; for Delay, or for good
	SynchronousPull    FaultKind = "synchronous pull"        // a request to fetch an image is answered when the update has ended, without a task
	Hold               FaultKind = "hold"                    // an update stays in State, or in the one it is in, until the fault is removed; see Server.State
	Complete           FaultKind = "complete, unchanged"     // success, but the version stays
	FirmwareVerifying  FaultKind = "verification scan"       // uploads and flashes are refused while firmware is being verified
	ForgetsStaged      FaultKind = "forgets what is staged"  // an activation activates nothing
	ForgetsSections    FaultKind = "forgets sections"        // a section that is cut takes those before it with it
	RenamesEntry       FaultKind = "renames the entry"       // an entry whose version changes has another ID then, with the version at its end
	SlowReset          FaultKind = "slow reset"              // a reset takes Delay
	NeverReturns       FaultKind = "never returns"           // a reset does not end until the fault is removed
	ReturnsWithNewCert FaultKind = "new certificate"         // after a reset the service shows another certificate
)

// Faults of what is told of updates.
const (
	StateLags         FaultKind = "state lags"          // the update service says what an earlier update left, until Delay after a request was taken, or until the fault is removed
	MarkHidden        FaultKind = "mark hidden"         // an iLO never shows UploadCurrentEtag
	MarkCleared       FaultKind = "mark cleared"        // an iLO shows UploadCurrentEtag only while it is at work on the upload
	ResetRequired     FaultKind = "says reset required" // what waits for a reboot ends with MessageID, or SystemResetRequired on an iLO and ResetRequired elsewhere
	ListsAtOnce       FaultKind = "lists at once"       // the inventory lists versions that are staged as if they ran
	TaskWarning       FaultKind = "task warning"        // the task ends as Completed with Warning and MessageID
	TaskCritical      FaultKind = "task critical"       // the task ends as Completed with Critical and MessageID
	TaskInterrupted   FaultKind = "task interrupted"    // tasks that run are Interrupted
	TaskLost          FaultKind = "task lost"           // tasks and monitors are 404
	TasksPruned       FaultKind = "tasks pruned"        // tasks that have ended are gone, but for the newest Bytes of them
	TaskNumbersReused FaultKind = "task numbers reused" // a reset of the service forgets tasks, and the first after it has the number 1 again
)

// Faults of the repository and the task queue of an iLO.
const (
	RepositoryAway      FaultKind = "repository away"  // UpdateRepositoryUnavailableDueToBMCReset
	QueueFull           FaultKind = "queue full"       // UpdateTaskQueueFull
	QueueItemFails      FaultKind = "queue item fails" // a queue item ends in Exception
	QueueItemStaysStuck FaultKind = "queue item stays" // a queue item that succeeded stays Pending, as [field] on iLO 7
)

// Faults of events that are posted.
const (
	SubscriptionLimit FaultKind = "subscription limit" // a subscription is one too many: CreateLimitReachedForResource
	NeverPosts        FaultKind = "never posts"        // an event is not posted
	PostsGarbage      FaultKind = "posts garbage"      // what is no JSON is posted in the place of an event; Bytes of it, or 64
	PostsOther        FaultKind = "posts other"        // an event has the Context of another subscription
)

// Conditions hold while they are injected. They count how often they mattered.
const (
	TPM              FaultKind = "TPM"                // an update without the override flag is FWFlashTPMOverrideFlagRequired
	OneViewManaged   FaultKind = "managed by OneView" // there is the account _HPOneViewAdmin, which HPE OneView makes itself
	NoUpdateable     FaultKind = "no Updateable"      // inventory entries do not have the property
	PagedMembers     FaultKind = "paged members"      // collections come in pages of Bytes members, or 2, with Members@odata.nextLink
	StubMembers      FaultKind = "stub members"       // members of collections are links alone, whatever $expand says
	DuplicateMembers FaultKind = "duplicate members"  // collections name their first member twice
	BrokenMember     FaultKind = "broken member"      // the last member of each collection is 500
)

// FaultKinds returns every kind of fault.
func FaultKinds() []FaultKind {
	return []FaultKind{
		RefuseConnections, ResetConnections, SingleConnection, ResetAt, StallAt, Slow,
		Unauthorized, Transient401, Unavailable, NotJSON, EmptyError, Refuses, EarlyAnswer, Redirect, RedirectAway, Oversized, Deep, SessionLimit,
		ResetAnswered, AnswersOtherwise, ForgetsLocation,
		Busy, BadSignature, FlashFails, PullFails, PullMissing, PullTruncated, NeverPulls, SynchronousPull, Hold, Complete, FirmwareVerifying,
		ForgetsStaged, ForgetsSections, RenamesEntry, SlowReset, NeverReturns, ReturnsWithNewCert,
		StateLags, MarkHidden, MarkCleared, ResetRequired, ListsAtOnce,
		TaskWarning, TaskCritical, TaskInterrupted, TaskLost, TasksPruned, TaskNumbersReused,
		RepositoryAway, QueueFull, QueueItemFails, QueueItemStaysStuck,
		SubscriptionLimit, NeverPosts, PostsGarbage, PostsOther,
		TPM, OneViewManaged, NoUpdateable, PagedMembers, StubMembers, DuplicateMembers, BrokenMember,
	}
}
