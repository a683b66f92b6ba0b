"""What is expected of every kind of file with every reader: whatever changes turns a test red."""

from __future__ import annotations

import os
from dataclasses import dataclass

RIGHT, WRONG = "right", "wrong"
MISSING, UNREADABLE, TOO_LARGE, CRASHED = "MediaMissing", "MediaUnreadable", "MediaTooLarge", "MediaCrashed"
FAILURES = (MISSING, UNREADABLE, TOO_LARGE, CRASHED)

UNLISTED: dict[str, dict[str, str]] = {
    "decord": {
        "an index that lies": "seeks to a frame that the index calls a keyframe, and is none",
        "cut short": "shows its last frame for all that is missing",
        "frames at the same time": "shows any of them",
        "negative times": "begins at 0",
        "no first keyframe": "counts packets that give no frame",
        "several videos": "shows another one than players do",
        "times of days": "keeps them in 32-bit floats, in which all frames of a file are at once",
    },
    "torchcodec": {
        "an index that lies": "takes frames to be in the order that the index says",
        "cut short": "shows its last frame for all that is missing",
        "frames at the same time": "shows the first of them",
        "negative times": "begins at 0",
        "no first keyframe": "begins before the first frame that can be decoded",
        "on a frame's own start": "in FLV and fragmented MP4, shows the frame before",
    },
}
"""Wrong frames without an error, beyond what the readers' `KNOWN_WRONG` list, which is of files in good order."""

UNSTEADY = {("decord", "same_time_twice.mkv"), ("decord", "lies_order.mp4")}
"""Readers and files of which they now and then show the right frames, and now and then not."""


@dataclass(frozen=True)
class Expected:
    """What comes of a file: right pictures, or an error's name; where a reader shows wrong ones, why."""

    pyav: str
    decord: str = ""
    """Default, as with pyav."""
    torchcodec: str = ""
    inspect: str = ""
    """What `Media.inspect` finds, against a plain decode of the file."""

    def of(self, who: str) -> str:
        """`right`, `wrong`, or an error's name."""
        said = self.said(who)
        return said if said in (RIGHT, *FAILURES) else WRONG

    def said(self, who: str) -> str:
        """The same, or why it is wrong."""
        return str(vars(self)[who]) or self.pyav


CODINGS: dict[str, Expected] = {
    "plain.mp4": Expected(RIGHT),
    "keys_only.mp4": Expected(RIGHT),
    "one_key.mp4": Expected(RIGHT),
    "open_gop.mp4": Expected(RIGHT, decord="open GOP in MP4"),
    "refreshed_bit_by_bit.mp4": Expected(RIGHT, torchcodec=UNREADABLE),
    "yuv444.mp4": Expected(RIGHT),
    "ten_bit.mp4": Expected(RIGHT),
    "full_range.mp4": Expected(RIGHT),
    "grey.mp4": Expected(RIGHT),
    "interlaced.mp4": Expected(RIGHT),
    "wide_pixels.mp4": Expected(RIGHT),
    "odd_size.mp4": Expected(RIGHT),
    "hevc.mp4": Expected(RIGHT, decord="HEVC with open GOP"),
    "hevc_open_gop.mkv": Expected(RIGHT, decord="HEVC with open GOP"),
    "av1.mp4": Expected(RIGHT, decord=UNREADABLE),
    "vp9.webm": Expected(RIGHT),
    "vp9_odd_size.webm": Expected(RIGHT),
    "vp9_alpha.webm": Expected(RIGHT),
    "vp8.webm": Expected(RIGHT),
    "mpeg4_b_frames.avi": Expected(RIGHT, decord="AVI with B-frames", torchcodec="AVI with B-frames"),
    "h264_b_frames.avi": Expected(RIGHT, decord="AVI with B-frames", torchcodec="AVI with B-frames"),
    "mjpeg.avi": Expected(RIGHT),
    "mpeg2.ts": Expected(RIGHT, decord="MPEG-TS", torchcodec="MPEG-TS"),
    "prores.mov": Expected(RIGHT),
    "sorenson.flv": Expected(RIGHT, torchcodec="on a frame's own start"),
    "ffv1.mkv": Expected(UNREADABLE),
}
CONTAINERS: dict[str, Expected] = {
    "faststart.mp4": Expected(RIGHT),
    "fragmented.mp4": Expected(RIGHT, torchcodec="on a frame's own start"),
    "plain.mkv": Expected(RIGHT),
    "live.mkv": Expected(RIGHT, decord=UNREADABLE),
    "live.webm": Expected(RIGHT, decord=UNREADABLE),
    "plain.ts": Expected(RIGHT, decord="MPEG-TS", torchcodec=UNREADABLE),
    "plain.flv": Expected(RIGHT),
    "matroska.mp4": Expected(RIGHT),
    "mp4.avi": Expected(RIGHT),
    "mp4.txt": Expected(RIGHT),
    "gif.mp4": Expected(UNREADABLE),
    "raw_h264.mp4": Expected(UNREADABLE),
    "program_stream.mp4": Expected(UNREADABLE),
    "asf.mp4": Expected(UNREADABLE),
    "png.mp4": Expected(UNREADABLE),
    "ogg.mp4": Expected(UNREADABLE),
}
TIMES: dict[str, Expected] = {
    "one_frame.mp4": Expected(RIGHT),
    "one_frame.mkv": Expected(RIGHT),
    "two_frames.mp4": Expected(RIGHT),
    "tiny_2x2.mp4": Expected(UNREADABLE),
    "smallest_8x8.mp4": Expected(RIGHT),
    "uneven.mp4": Expected(RIGHT),
    "uneven.mkv": Expected(RIGHT),
    "starts_late.mp4": Expected(RIGHT),
    "starts_late.mkv": Expected(RIGHT),
    "starts_late.ts": Expected(RIGHT, decord="MPEG-TS", torchcodec="MPEG-TS"),
    "edit_list.mp4": Expected(RIGHT, torchcodec="edit list"),
    "negative_times.mkv": Expected(UNREADABLE, decord="negative times", torchcodec="negative times"),
    "one_per_second.mp4": Expected(RIGHT),
    "thousand_per_second.mp4": Expected(RIGHT),
    "thousand_per_second.mkv": Expected(RIGHT),
    "three_thousand_per_second.mkv": Expected(
        RIGHT, decord="frames at the same time", torchcodec="frames at the same time"
    ),
    "huge_times.mkv": Expected(RIGHT, decord=CRASHED),
    "huge_times.mp4": Expected(RIGHT, decord="times of days"),
    "clock_wraps.ts": Expected(RIGHT, decord="MPEG-TS", torchcodec="MPEG-TS"),
    "hour_long_gap.mp4": Expected(RIGHT),
    "turned_90.mp4": Expected(RIGHT),
    "turned_180.mp4": Expected(RIGHT),
    "turned_270.mp4": Expected(RIGHT),
}
COMPANY: dict[str, Expected] = {
    "audio_only.mp4": Expected(UNREADABLE),
    "cover_only.mp4": Expected(UNREADABLE),
    "cover_beside.mp4": Expected(RIGHT),
    "cover_beside.mkv": Expected(RIGHT),
    "two_videos.mp4": Expected(RIGHT, decord="several videos"),
    "two_videos.mkv": Expected(RIGHT),
    "text_beside.mp4": Expected(RIGHT),
    "text_beside.mkv": Expected(RIGHT),
    "font_beside.mkv": Expected(RIGHT),
    "data_beside.ts": Expected(RIGHT, decord="MPEG-TS", torchcodec=UNREADABLE),
    "sound_longer.mp4": Expected(RIGHT),
    "sound_longer.mkv": Expected(RIGHT),
}
CHANGED: dict[str, Expected] = {
    "size_changes.ts": Expected(UNREADABLE, decord="MPEG-TS"),
    "size_changes.webm": Expected(RIGHT, torchcodec=UNREADABLE),
    "same_time_twice.mkv": Expected(RIGHT, decord="frames at the same time", torchcodec="frames at the same time"),
    "no_first_key.mkv": Expected(RIGHT, decord="no first keyframe", torchcodec="no first keyframe"),
    "frames_missing.mkv": Expected(RIGHT),
    "frames_missing.mp4": Expected(RIGHT),
}
LARGE: dict[str, Expected] = {
    "too_many_pixels.mp4": Expected(TOO_LARGE),
    "too_many_frames.avi": Expected(TOO_LARGE),
    "too_many_seconds.mp4": Expected(TOO_LARGE),
}
DAMAGED: dict[str, Expected] = {
    "cut_half.mp4": Expected(UNREADABLE),
    "cut_before_index_ends.mp4": Expected(UNREADABLE),
    "cut_quarter_faststart.mp4": Expected(UNREADABLE),
    "cut_half_faststart.mp4": Expected(UNREADABLE),
    "cut_last_byte_faststart.mp4": Expected(RIGHT, decord=UNREADABLE, torchcodec=UNREADABLE, inspect=UNREADABLE),
    "cut_first_kilobyte.mp4": Expected(UNREADABLE),
    "cut_fragmented.mp4": Expected(UNREADABLE),
    "cut_half.mkv": Expected(UNREADABLE, decord="cut short", torchcodec="cut short", inspect=RIGHT),
    "cut_half.webm": Expected(UNREADABLE, decord="cut short", torchcodec="cut short", inspect=RIGHT),
    "cut_half.avi": Expected(UNREADABLE),
    "cut_half.ts": Expected(RIGHT, decord="MPEG-TS", torchcodec=UNREADABLE),
    "cut_half.flv": Expected(UNREADABLE, decord="cut short", torchcodec="cut short", inspect=RIGHT),
    "cut_start.ts": Expected(RIGHT, decord="MPEG-TS", torchcodec=UNREADABLE),
    "cut_start.mp4": Expected(UNREADABLE),
    "no_index.mp4": Expected(UNREADABLE),
    "no_index.avi": Expected(RIGHT, decord="AVI with B-frames", torchcodec="AVI with B-frames"),
    "no_data.mp4": Expected(UNREADABLE),
    "hole.mp4": Expected(UNREADABLE),
    "hole.mkv": Expected(UNREADABLE, decord="cut short", torchcodec="cut short"),
    "hole.ts": Expected(UNREADABLE, decord="MPEG-TS"),
    "flipped_bits.mp4": Expected(UNREADABLE),
    "flipped_bits.mkv": Expected(UNREADABLE),
    "flipped_bits.ts": Expected(UNREADABLE),
    "flipped_bits.webm": Expected(RIGHT),
    "flipped_bits_in_index.mp4": Expected(UNREADABLE),
    "garbage_behind.mp4": Expected(RIGHT),
    "garbage_behind.mkv": Expected(RIGHT),
    "garbage_before.mp4": Expected(UNREADABLE),
    "twice.mp4": Expected(RIGHT),
}
LYING: dict[str, Expected] = {
    "lies_size.mp4": Expected(RIGHT),
    "lies_huge_size.mp4": Expected(RIGHT),
    "lies_size.avi": Expected(RIGHT, decord="AVI with B-frames", torchcodec="AVI with B-frames"),
    "lies_size.mkv": Expected(RIGHT),
    "lies_more_frames.avi": Expected(UNREADABLE, decord="AVI with B-frames", torchcodec="AVI with B-frames"),
    "lies_fewer_frames.avi": Expected(RIGHT, decord="AVI with B-frames", torchcodec="AVI with B-frames"),
    "lies_more_frames.mp4": Expected(UNREADABLE),
    "lies_billions_of_frames.mp4": Expected(UNREADABLE),
    "lies_longer.mkv": Expected(UNREADABLE, decord="cut short", torchcodec="cut short", inspect=RIGHT),
    "lies_longer.mp4": Expected(RIGHT),
    "lies_no_time_scale.mp4": Expected(RIGHT),
    "lies_keyframe.mp4": Expected(RIGHT, decord="an index that lies"),
    "lies_keyframe_without_b.mp4": Expected(RIGHT, decord="an index that lies"),
    "lies_no_keyframes.mp4": Expected(RIGHT),
    "lies_keyframes_past_end.mp4": Expected(RIGHT),
    "lies_offset.mp4": Expected(UNREADABLE),
    "lies_offset_past_end.mp4": Expected(UNREADABLE),
    "lies_sample_size.mp4": Expected(UNREADABLE),
    "lies_order.mp4": Expected(RIGHT, decord="an index that lies", torchcodec="an index that lies"),
    "lies_all_at_once.mp4": Expected(UNREADABLE, decord="an index that lies", inspect=RIGHT),
    "lies_slow.mp4": Expected(RIGHT),
    "lies_codec.mp4": Expected(UNREADABLE),
    "lies_no_codec.mp4": Expected(UNREADABLE),
}
NO_VIDEO: dict[str, Expected] = {
    "empty.mp4": Expected(UNREADABLE),
    "text.mp4": Expected(UNREADABLE),
    "page.mp4": Expected(UNREADABLE),
    "zeros.mp4": Expected(UNREADABLE),
    "header_only.mp4": Expected(UNREADABLE),
    "playlist.mp4": Expected(UNREADABLE),
    "concat.mp4": Expected(UNREADABLE),
    "dash.mp4": Expected(UNREADABLE),
    "subtitles.mp4": Expected(UNREADABLE),
}
PLACES: dict[str, Expected] = {
    "folder.mp4": Expected(UNREADABLE),
    "pipe.mp4": Expected(UNREADABLE),
    "socket.mp4": Expected(UNREADABLE),
    "link.mp4": Expected(MISSING),
    "dangling.mp4": Expected(MISSING),
    "loop.mp4": Expected(MISSING),
    "linked_folder/plain.mp4": Expected(MISSING),
    "missing.mp4": Expected(MISSING),
    "a_file.mp4/inside.mp4": Expected(MISSING),
    "folder.mp4/../plain.mp4": Expected(MISSING),
    "../outside.mp4": Expected(MISSING),
    "/dev/zero": Expected(MISSING),
    "": Expected(MISSING),
    "nul\x00.mp4": Expected(MISSING),
    f"{'x' * 300}.mp4": Expected(MISSING),
    f"{'x' * 251}.mp4": Expected(RIGHT),
    "line\nbreak \x1b[31m é 中 😀.mp4": Expected(RIGHT),
    "line\nbreak \x1b[31m.txt": Expected(UNREADABLE),
    os.fsdecode(b"not_utf8_\xff.mp4"): Expected(RIGHT),
    "file:plain.mp4": Expected(RIGHT),
    "http:plain.mp4": Expected(MISSING),
    "%03d.mp4": Expected(RIGHT),
    "too_many_bytes.mp4": Expected(TOO_LARGE),
}
SHARED: dict[str, Expected] = {
    "shared/audio_only.mp4": Expected(UNREADABLE),
    "shared/bitflips.mp4": Expected(UNREADABLE),
    "shared/decord_corrupted.mp4": Expected(UNREADABLE),
    "shared/decord_rot90.mov": Expected(RIGHT),
    "shared/decord_unordered.mov": Expected(RIGHT),
    "shared/editlist_copycut.mp4": Expected(RIGHT, decord="edit list", torchcodec="edit list"),
    "shared/html_error.mp4": Expected(UNREADABLE),
    "shared/missing_moov.mp4": Expected(UNREADABLE),
    "shared/no_duration.webm": Expected(RIGHT, decord=UNREADABLE),
    "shared/odd_427x241_444.mp4": Expected(RIGHT),
    "shared/odd_427x241_vp9.webm": Expected(RIGHT),
    "shared/one_frame.mp4": Expected(RIGHT),
    "shared/open_gop.mp4": Expected(RIGHT, decord="open GOP in MP4"),
    "shared/rot90.mp4": Expected(RIGHT),
    "shared/single_keyframe.mp4": Expected(RIGHT),
    "shared/start_pts.ts": Expected(RIGHT, decord=UNREADABLE, torchcodec=UNREADABLE),
    "shared/text.mp4": Expected(UNREADABLE),
    "shared/tiny_2x2.mp4": Expected(UNREADABLE),
    "shared/torchcodec__av1_video.mkv": Expected(RIGHT, decord=UNREADABLE),
    "shared/torchcodec__h264_10bits.mp4": Expected(RIGHT),
    "shared/torchcodec__h265_10bits.mp4": Expected(RIGHT),
    "shared/truncated_50pct.mp4": Expected(UNREADABLE),
    "shared/vfr.mp4": Expected(RIGHT),
    "shared/zero_bytes.mp4": Expected(UNREADABLE),
    "shared/zeroed_hole.mp4": Expected(UNREADABLE),
}
MADE: dict[str, Expected] = (
    CODINGS | CONTAINERS | TIMES | COMPANY | CHANGED | LARGE | DAMAGED | LYING | NO_VIDEO | PLACES
)
EXPECTED: dict[str, Expected] = MADE | SHARED
SAID: dict[str, str] = {
    "ffv1.mkv": "cannot be decoded",
    "gif.mp4": "not one of the video containers",
    "raw_h264.mp4": "not one of the video containers",
    "tiny_2x2.mp4": "2x2 pixels, less than 8 a side",
    "audio_only.mp4": "no video stream",
    "cover_only.mp4": "no video stream",
    "size_changes.ts": "a packet is damaged",
    "too_many_pixels.mp4": "limits.max_pixels is 1500000",
    "too_many_frames.avi": "limits.max_frames is 1200",
    "too_many_seconds.mp4": "limits.max_seconds is 7200",
    "too_many_bytes.mp4": "limits.max_bytes is 1073741824",
    "cut_half.mp4": "cannot be opened",
    "cut_half_faststart.mp4": "truncated: 7 packets where its header promises 40",
    "cut_half.mkv": "before the frame wanted at 1.63 s",
    "cut_half.flv": "before the frame wanted at 1.63 s",
    "lies_more_frames.avi": "truncated: 40 packets where its header promises 900",
    "lies_longer.mkv": "ends at 1.67 s, before the frame wanted",
    "lies_no_codec.mp4": "no decoder for its video stream",
    "concat.mp4": "not one of the video containers",
    "folder.mp4": "not a file",
    "pipe.mp4": "not a file",
    "socket.mp4": "not a file",
    "link.mp4": "is a symbolic link",
    "dangling.mp4": "is a symbolic link",
    "linked_folder/plain.mp4": "stands where its path needs a folder",
    "missing.mp4": "no such file",
    "../outside.mp4": "leads outside the data root",
    "/dev/zero": "leads outside the data root",
}
"""What the default reader says of some of them."""
