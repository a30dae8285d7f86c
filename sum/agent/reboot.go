package agent

import (
	"context"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/roundsman-go/roundsman/sum/channel"
)

const (
	shutdownTimeout   = 30 * time.Second
	maxRebootMessage  = 2 << 10 // bytes
	shutdownMaxOutput = 1 << 10
)

// Reboot implements channel.Handler by shutdown(8), or on Windows by
// InitiateSystemShutdownEx, which show the message to everybody who is logged in.
// Delays are rounded up: to minutes, and on Windows to seconds. Until
// the restart no job begins on the host; see restart.
func (s *service) Reboot(ctx context.Context, r *channel.RebootRequest) (*channel.RebootResponse, error) {
	s.lease.renew()
	if ids := s.busy(); len(ids) > 0 {
		return nil, &channel.Fault{Code: codeJobRunning, Retryable: true, Message: "job " + ids[0] + " runs"}
	}
	if err := s.canRestart(); err != nil {
		return nil, err
	}
	// Nor while another manager's job runs, and from now on none begins.
	delay := time.Duration(r.DelaySeconds) * time.Second
	lock, by, err := s.home.holdForRestart(s.target, restartDelay(delay))
	switch {
	case err != nil:
		return nil, s.store.explain(err)
	case by != nil:
		return nil, hostFault(*by)
	}
	taken, err := s.restart(ctx, r.Message, delay)
	keep := s.home.keepForRestart
	if !taken {
		keep = (*hostLock).release // else it was, or nobody knows
	}
	if lerr := keep(lock); lerr != nil {
		s.log.Error("the file that keeps jobs out until the restart", "error", lerr)
	}
	if err != nil {
		return nil, err
	}
	s.log.Info("restart of the host asked", "delay_seconds", r.DelaySeconds)
	return &channel.RebootResponse{}, nil
}

// ShutdownArgs is the command with which a Linux host is asked to restart, and to
// show a message to everybody who is logged in: shutdown(8). Delays are rounded up
// to its unit, the minute.
func ShutdownArgs(message string, delay time.Duration) []string {
	args := []string{"shutdown", "-r", "+" + strconv.FormatInt(int64(shutdownDelay(delay)/time.Minute), 10)}
	if message = rebootMessage(message); message == "" {
		return args
	}
	if message[0] == '-' {
		message = " " + message // else it would be an option
	}
	return append(args, message)
}

// shutdownDelay rounds a delay up to whole minutes.
func shutdownDelay(delay time.Duration) time.Duration {
	return (max(delay, 0) + time.Minute - 1) / time.Minute * time.Minute
}

// rebootMessage is a message as users get it: one line, and nothing that moves the
// cursor of whoever reads it.
func rebootMessage(message string) string {
	message = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(message, "\uFFFD"))
	message = strings.TrimSpace(message)
	for len(message) > maxRebootMessage {
		message = strings.ToValidUTF8(message[:maxRebootMessage], "")
	}
	return message
}
