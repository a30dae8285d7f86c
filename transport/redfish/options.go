package redfish

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/roundsman-go/roundsman/transport"
)

// Port is where Redfish is served (DSP0266, "Protocol version" and "Service root").
const Port = 443

// Transport dials Redfish services over HTTPS. Its zero value is ready for use, and it
// is safe for concurrent use.
type Transport struct {
	// DialContext opens the network connections; nil means a net.Dialer.
	DialContext transport.DialFunc
}

var _ transport.Transport = (*Transport)(nil)

// Profile says how a service differs from what the standard says.
type Profile string

// The profiles.
const (
	ProfileAuto    Profile = ""        // by what the service says of itself
	ProfileGeneric Profile = "generic" // any conforming service
	ProfileILO4    Profile = "ilo4"
	ProfileILO5    Profile = "ilo5"
	ProfileILO6    Profile = "ilo6"
	ProfileILO7    Profile = "ilo7"
	ProfileRMC     Profile = "rmc" // Superdome Flex, Flex 280, Compute Scale-up
)

// Way is how an image gets to the target.
type Way string

// The ways. For those that pull, the target fetches the image from the manager.
const (
	WayAuto           Way = ""                 // the first of the profile that the service offers and the file fits
	WayMultipart      Way = "multipart"        // push to MultipartHttpPushUri (DSP0266, "Multipart HTTP push updates")
	WayHTTPPush       Way = "http-push"        // push to HttpPushUri, the image as the body
	WayHPEPush        Way = "hpe-push"         // push to HttpPushUri in the form of iLO 5 and later
	WaySimpleUpdate   Way = "simple-update"    // pull, UpdateService.SimpleUpdate
	WayAddFromURI     Way = "add-from-uri"     // pull, the component repository of iLO 5 and later
	WayInstallFromURI Way = "install-from-uri" // pull, iLO 4
	WayUpdateAll      Way = "update-all"       // pull, the bundle of a complex (RMC)
	WayQueue          Way = "queue"            // push into the component repository of iLO 5 and later, and a task in its update queue
	WayInstallSet     Way = "install-set"      // the same, by an install set
)

// pulls reports whether the target fetches the image.
func (w Way) pulls() bool {
	switch w {
	case WaySimpleUpdate, WayAddFromURI, WayInstallFromURI, WayUpdateAll:
		return true
	}
	return false
}

// Events says whether a service is to post events of an update to the manager (DSP0266,
// "Eventing").
type Events string

// What is subscribed to. An event only tells that it is time to look: without any, and
// where the service refuses the subscription, an update takes as long as before.
const (
	EventsAuto   Events = ""       // while the target fetches the image: it gets to the manager then
	EventsAlways Events = "always" // also while an image is pushed, which opens a port of the manager for them
	EventsNever  Events = "never"
)

// Options are the Endpoint.Options of this driver, as a value or a pointer. The zero
// value finds out what the service is, and holds one connection to it at a time.
type Options struct {
	// Profile overrides what the service says of itself.
	Profile Profile
	// Way is the only way that updates go; WayAuto lets the driver choose. One that
	// the service does not offer is errors.ErrUnsupported.
	Way Way

	// TPMOverride lets firmware be changed although a trusted module would then ask
	// for its recovery key. Whoever sets it has the key.
	TPMOverride bool
	// IgnoreQueue updates although the update queue of an iLO holds tasks that are
	// not over, which run before or instead of what is sent, or another program
	// manages it.
	IgnoreQueue bool

	// RecoverySet has an iLO put what is pushed into its recovery set as well. The account
	// needs the right to that (SystemRecoveryConfigPriv).
	RecoverySet bool

	// ResetType is how Reboot restarts the host, such as "PowerCycle" where what is staged
	// takes one (DMTF DSP2046, "ComputerSystem"); "" means GracefulRestart, or ForceRestart
	// where the service does not offer that, and On for a host that is off.
	ResetType string

	// ImageScheme is "http" or "https", the URLs under which the target fetches images
	// and to which it posts events; "" means https for the profile rmc, and http for all
	// others.
	ImageScheme string
	// Events says when the target posts events to the manager.
	Events Events

	// Connections is how many connections and requests may be open at a time; 0
	// means 1, which is all that some management processors bear.
	Connections int
	// Proxy gives the proxy for a request, as http.ProxyFromEnvironment does; nil
	// means none: the environment is never consulted.
	Proxy func(*http.Request) (*url.URL, error)
	// LegacyTLS also speaks TLS 1.0 and 1.1 and cipher suites that are not secure.
	// It takes a pin (Trust.SPKI): nothing else of such a connection proves anything.
	LegacyTLS bool

	// ConnectTimeout bounds connecting and login; 0 means 30 s. The time that
	// Trust.FirstUse takes does not count.
	ConnectTimeout time.Duration
	// StallTimeout ends a request of which no byte moved for so long, with
	// ErrTimeout; 0 means 2 minutes, below 0 never.
	StallTimeout time.Duration
	// PollInterval is how long to wait between two looks at an update; 0 means 5 s.
	PollInterval time.Duration
	// UpdateStall ends the wait for an update that reported no progress for so long;
	// 0 means 30 minutes. It is also how long the answer to a push may take once
	// all is sent.
	UpdateStall time.Duration
	// ResetTimeout is how long the target may be away during an update; 0 means 15
	// minutes.
	ResetTimeout time.Duration
	// SettleTimeout is how long after the end of an update the version may still be
	// the old one, as before the reset that activates it; 0 means 5 minutes.
	SettleTimeout time.Duration
}

// options are checked, with defaults.
func options(ep transport.Endpoint) (Options, error) {
	var o Options
	switch given := ep.Options.(type) {
	case nil:
	case Options:
		o = given
	case *Options:
		if given != nil {
			o = *given
		}
	default:
		return o, fmt.Errorf("options of another driver: %T", given)
	}
	for _, d := range []struct {
		value *time.Duration
		def   time.Duration
	}{
		{&o.ConnectTimeout, 30 * time.Second},
		{&o.StallTimeout, 2 * time.Minute},
		{&o.PollInterval, 5 * time.Second},
		{&o.UpdateStall, 30 * time.Minute},
		{&o.ResetTimeout, 15 * time.Minute},
		{&o.SettleTimeout, 5 * time.Minute},
	} {
		if *d.value == 0 {
			*d.value = d.def
		}
		if *d.value < 0 && d.value != &o.StallTimeout {
			return o, errors.New("a negative time, other than StallTimeout")
		}
	}
	switch o.ImageScheme {
	case "", "http", "https":
	default:
		return o, fmt.Errorf("images are fetched by http or https, not by %q", o.ImageScheme)
	}
	switch o.Events {
	case EventsAuto, EventsAlways, EventsNever:
	default:
		return o, fmt.Errorf("events are subscribed to %q or %q, not %q", EventsAlways, EventsNever, o.Events)
	}
	if o.Connections < 0 {
		return o, errors.New("a negative number of Connections")
	}
	o.Connections = max(o.Connections, 1)
	switch o.Profile {
	case ProfileAuto, ProfileGeneric, ProfileILO4, ProfileILO5, ProfileILO6, ProfileILO7, ProfileRMC:
	default:
		return o, fmt.Errorf("there is no profile %q", o.Profile)
	}
	switch o.Way {
	case WayAuto, WayMultipart, WayHTTPPush, WayHPEPush, WaySimpleUpdate, WayAddFromURI, WayInstallFromURI, WayUpdateAll, WayQueue, WayInstallSet:
	default:
		return o, fmt.Errorf("there is no way %q", o.Way)
	}
	if o.LegacyTLS && len(ep.Trust.SPKI) == 0 {
		return o, errors.New("LegacyTLS takes a pin: give the digest of the target's public key (Trust.SPKI)")
	}
	return o, nil
}

// dialer returns what opens connections.
func (t *Transport) dialer() transport.DialFunc {
	if t.DialContext != nil {
		return t.DialContext
	}
	return (&net.Dialer{}).DialContext
}
