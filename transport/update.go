package transport

import (
	"context"
	"io"
	"time"
)

// UpdateOptions are the options of Update. A driver calls Checkpoint, Publish and Receive
// one at a time: who provides them need not expect two calls at once.
type UpdateOptions struct {
	Devices   []string // Device.ID of the parts to update; empty means what the payload fits
	Rewrite   bool     // also when the version is there already
	Downgrade bool     // also when the version there is newer
	// Resume is the last State that an interrupted Update handed out.
	Resume *State
	// Checkpoint makes a State durable. The driver calls it before every request
	// that cannot be taken back and after its answer, and stops if it fails.
	Checkpoint func(ctx context.Context, s State) error
	// Publish makes a payload file available for the target to fetch, until it is
	// released. A driver whose line or context ended before the target had it all
	// does not release it: whoever resumes publishes it again under the same key,
	// and the session takes back what is left when the update has ended. It is nil
	// where the session offers no server; drivers that need it then fail with
	// errors.ErrUnsupported before any change.
	Publish func(ctx context.Context, r PublishRequest) (Published, error)
	// Receive opens a URL to which the target can post what becomes of the update,
	// until it is released, which whoever asked for it does before Update returns. It
	// is nil where the session takes no posts. No driver depends on it: posts get lost,
	// and a target that does not post is asked.
	Receive func(ctx context.Context, r ReceiveRequest) (Receiving, error)
	// Progress, if set, is called with what is known, from one goroutine at a time.
	Progress func(Progress)
	// Log, if set, gets the device's own log text.
	Log io.Writer
}

// PublishRequest asks for a URL under which one target can fetch one file, or
// the files of a directory.
type PublishRequest struct {
	File File
	// Tree, instead of File, is a directory: the URL ends in a slash, and the names
	// of the files follow it.
	Tree []File
	// Key makes the URL: the same key gives the same URL and port again, so that
	// a resumed update finds what the device is still fetching.
	Key string
	// TLS asks for an https URL.
	TLS bool
	// FixedPort, if not 0, is the only port that the target will use.
	FixedPort uint16
}

// Published is a file or a directory on offer.
type Published struct {
	URL string
	// Certificate is what the server shows, in DER form, where URL is https and
	// the caller of the session has not chosen another one: a target that can be
	// told whom to trust is told this.
	Certificate []byte
	// Await returns nil once the target has asked for it. After patience it fails
	// and says what came instead, and what to do about the way back.
	Await func(ctx context.Context, patience time.Duration) error
	// Release takes the offer back and reports the bytes that the target fetched.
	Release func(ctx context.Context) (fetched int64, err error)
}

// ReceiveRequest asks for a URL to which one target can post.
type ReceiveRequest struct {
	// TLS asks for an https URL.
	TLS bool
	// MaxBytes is how long the body of a post may be; 0 means 1 MiB. A longer one is
	// refused.
	MaxBytes int64
	// Handle takes a post, and is required: without it Receive fails with ErrInvalid. It
	// may be called from several goroutines at a time, and for posts that were under way
	// also after the release. The target hears that the post was taken when it returns
	// nil. Who posts has an address of the target's and knows the URL, which cannot be
	// guessed; over http that may be anybody on the way.
	Handle func(ctx context.Context, body io.Reader) error
}

// Receiving is a URL to which a target can post.
type Receiving struct {
	URL string
	// Certificate is what the server shows; see Published.
	Certificate []byte
	// Release closes it. It may be called again, also after it failed: then no post is
	// taken any more, and what is left is the firewall's, or the like.
	Release func(ctx context.Context) error
}

// Progress is how far an update is.
type Progress struct {
	Phase string `json:"phase"`           // such as "upload", "verify", "flash", "reset"
	Done  int64  `json:"done,omitempty"`  // bytes, or parts of Total
	Total int64  `json:"total,omitempty"` // 0: not known
	Text  string `json:"text,omitempty"`
}

// Verdict is what the target itself says became of an update. It is a claim: the
// version that is read afterwards is the truth.
type Verdict string

// The verdicts.
const (
	VerdictUnknown   Verdict = ""           // the target does not say
	VerdictApplied   Verdict = "applied"    // done
	VerdictStaged    Verdict = "staged"     // done once Activation has happened
	VerdictNotNeeded Verdict = "not-needed" // nothing to do
	VerdictFailed    Verdict = "failed"
	VerdictCancelled Verdict = "cancelled" // by request, before anything changed
)

// Activation is what makes a staged update take effect.
type Activation string

// The activations. A weaker one never stands in for a stronger one.
const (
	ActivationNone       Activation = ""
	ActivationReset      Activation = "reset" // of the device alone
	ActivationReboot     Activation = "reboot"
	ActivationPowerCycle Activation = "power-cycle"
)

// Result is the end of one Update.
type Result struct {
	Verdict    Verdict    `json:"verdict"`
	Activation Activation `json:"activation,omitempty"`
	Code       Code       `json:"code,omitzero"`
	Text       string     `json:"text,omitempty"` // verbatim
}
