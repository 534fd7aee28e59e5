// stream: the words for reset reasons.
#include "postern/pipe/stream.h"

const char *stream_reason_str(enum stream_reason r) {
  static const char *const words[STREAM_REASONS] = {
      [STREAM_OK] = "closed",
      [STREAM_ABORTED] = "aborted",
      [STREAM_REFUSED] = "refused",
      [STREAM_UNREACHABLE] = "unreachable",
      [STREAM_DIAL_TIMEOUT] = "dial_timeout",
      [STREAM_STALLED] = "stalled",
      [STREAM_MEMORY] = "memory",
      [STREAM_LIMIT] = "limit",
      [STREAM_NO_TUNNEL] = "no_tunnel",
      [STREAM_LINK_LOST] = "link_lost",
      [STREAM_SESSION_ENDED] = "session_ended",
      [STREAM_INTERNAL] = "internal",
  };
  return (unsigned)r < STREAM_REASONS ? words[r] : "aborted";
}
