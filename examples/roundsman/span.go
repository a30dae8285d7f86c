package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// span is a flag for a length of time: what time.ParseDuration takes, and days before
// it, such as 2d or 1d12h.
type span time.Duration

// String implements pflag.Value.
func (s *span) String() string {
	if *s == 0 {
		return "" // the default, which the flag's own text names
	}
	return time.Duration(*s).String()
}

// Type implements pflag.Value.
func (s *span) Type() string { return "TIME" }

// Set implements pflag.Value.
func (s *span) Set(v string) error {
	d, err := parseSpan(v)
	switch {
	case err != nil:
		return err
	case d < 0:
		return errors.New("must not be negative")
	}
	*s = span(d)
	return nil
}

// keepTime is a span that is longer than nothing, or for ever: "forever", or any that
// is less than nothing.
type keepTime time.Duration

// String implements pflag.Value.
func (k *keepTime) String() string {
	if *k < 0 {
		return "forever"
	}
	return (*span)(k).String()
}

// Type implements pflag.Value.
func (k *keepTime) Type() string { return "TIME" }

// Set implements pflag.Value.
func (k *keepTime) Set(v string) error {
	if v == "forever" {
		*k = -1
		return nil
	}
	d, err := parseSpan(v)
	switch {
	case err != nil:
		return err
	case d == 0:
		return errors.New("want more than nothing, or forever; without the flag it is the default")
	}
	*k = keepTime(d)
	return nil
}

var spanForm = regexp.MustCompile(`^([+-]?)(?:([0-9]{1,6})d)?(.*)$`)

// parseSpan is time.ParseDuration with days.
func parseSpan(v string) (time.Duration, error) {
	m := spanForm.FindStringSubmatch(v)
	if m == nil {
		return 0, spanError(v)
	}
	var days, rest time.Duration
	if m[2] != "" {
		n, _ := strconv.Atoi(m[2]) // six digits
		if n > maxDays {
			return 0, fmt.Errorf("more than %d days", maxDays)
		}
		days = time.Duration(n) * 24 * time.Hour
	}
	if m[3] != "" || m[2] == "" {
		var err error
		if rest, err = time.ParseDuration(m[3]); err != nil || rest < 0 || m[3] != "" && (m[3][0] == '+' || m[3][0] == '-') {
			return 0, spanError(v)
		}
	}
	if days += rest; m[1] == "-" {
		days = -days
	}
	return days, nil
}

// maxDays is what surely fits a time.Duration, with hours on top.
const maxDays = 36500

func spanError(v string) error {
	if _, err := strconv.ParseFloat(v, 64); err == nil {
		return fmt.Errorf("want a unit behind the number, such as %ss, %sm, %sh or %sd", v, v, v, v)
	}
	return errors.New("want a time such as 90s, 15m, 48h or 2d")
}

// waitTime is a span that is longer than nothing.
type waitTime time.Duration

// String implements pflag.Value.
func (w *waitTime) String() string { return (*span)(w).String() }

// Type implements pflag.Value.
func (w *waitTime) Type() string { return "TIME" }

// Set implements pflag.Value.
func (w *waitTime) Set(v string) error {
	var s span
	if err := s.Set(v); err != nil {
		return err
	}
	if s == 0 {
		return errors.New("want more than nothing")
	}
	*w = waitTime(s)
	return nil
}
