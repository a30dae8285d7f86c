package winlab

func (w *Wine) Processes() []int { return processesWith("WINEPREFIX=" + w.prefix()) }

func (s *Services) Program() string { return s.program }

var Forwarder = forwarder
