"""The words of the questions, a dozen or more of each kind; written for this project."""

LONG_CAPTION = (
    "Describe everything that happens in this video, from beginning to end.",
    "Give a full account of the video in the order in which things happen.",
    "Write a detailed description that covers the whole video.",
    "Tell me what this video shows, step by step.",
    "What goes on in this video? Leave nothing important out.",
    "Retell the video as a sequence of scenes.",
    "Summarise each part of the video in turn.",
    "Walk through the video and say what can be seen at each stage.",
    "Provide a thorough description of the video, scene after scene.",
    "Explain what happens over the course of the video.",
    "Put the contents of this video into words, in chronological order.",
    "I have not seen this video. Describe all of it to me.",
)

UNRELATED = (
    "The parts of this video come from different recordings.",
    "Several unrelated recordings were joined to make this video.",
    "This video strings together clips that have nothing to do with one another.",
    "What follows is a series of separate clips, shown one after another.",
    "The clips in this video were taken from different places and put end to end.",
    "This is a compilation: its parts do not belong together.",
    "Independent clips were placed one behind the other in this video.",
    "The video is made of clips that were filmed on different occasions.",
    "Clips without any connection follow one another here.",
    "This video was assembled from recordings that are not related.",
    "Each part of this video is a recording of its own.",
    "The scenes of this video were collected from different sources.",
)

EVENT_AFTER = (
    "What happens right after this: {event}?",
    "Which scene follows the one described as “{event}”?",
    "“{event}” What comes next in the video?",
    "Once this part is over, what is shown: {event}?",
    "Find the moment described by “{event}” and say what follows it.",
    "After the part in which one sees “{event}”, what can be seen?",
    "The video shows this at some point: {event}. What does it show next?",
    "Name the scene that comes directly after “{event}”.",
    "Look for this scene: {event}. What is the very next scene?",
    "What does the video turn to when this scene ends: {event}?",
    "Which event comes immediately behind “{event}” in time?",
    "“{event}” Describe the scene that succeeds it.",
)

EVENT_BEFORE = (
    "What happens right before this: {event}?",
    "Which scene leads up to the one described as “{event}”?",
    "“{event}” What was shown just before?",
    "What can be seen in the part that ends as this one begins: {event}?",
    "Find the moment described by “{event}” and say what precedes it.",
    "Ahead of the part in which one sees “{event}”, what is shown?",
    "The video shows this at some point: {event}. What did it show just before that?",
    "Name the scene that comes directly before “{event}”.",
    "Look for this scene: {event}. What is the scene ahead of it?",
    "From which scene does the video change to this one: {event}?",
    "Which event comes immediately ahead of “{event}” in time?",
    "“{event}” Describe the scene that it succeeds.",
)

TEMPORAL_NEEDLE = (
    "For a short while, this video cuts away to something else.",
    "At one point a brief scene interrupts this video.",
    "One short stretch of this video does not belong to the rest.",
    "A few moments of another recording were put into this video.",
    "Somewhere in this video a different clip is shown briefly.",
    "This video is broken off once by a short, unrelated passage.",
    "There is a brief interlude in this video that differs from everything around it.",
    "Most of this video is one recording, but a short part of it is another.",
    "Look for the passage in which the video suddenly shows something different.",
    "A short clip was inserted into this video.",
    "The video leaves its subject for a moment and then comes back to it.",
    "One interval of this video has other contents than what comes before and after.",
)

TWO_NEEDLE = (
    "A short clip was cut in two, and both halves were put into this video at different times.",
    "Twice this video cuts away, each time to one half of the same short clip.",
    "Two passages of this video belong together and come from another recording.",
    "This video is interrupted two times, by the first and then by the second part of another clip.",
    "At two separate moments, pieces of one foreign clip appear in this video.",
    "Another clip is hidden in this video in two pieces.",
    "Find the two moments in which a different recording is shown; they are parts of one clip.",
    "One short clip was split, and its two parts are spread over this video.",
    "Two brief interruptions of this video continue one another.",
    "The video contains both halves of a clip that does not belong to it.",
    "Another recording shows up twice in this video, the second time where it had left off.",
    "Put together the two short passages that do not fit the rest of the video.",
)

SPATIAL_NEEDLE = (
    "A small picture-in-picture lies somewhere over this video.",
    "One small area of the frame shows another video.",
    "Somewhere in the frame there is a small inset with its own contents.",
    "A little window in this video shows something different from its surroundings.",
    "Look for the small region of the picture that does not belong to the rest.",
    "Another, smaller video was pasted over part of this one.",
    "Within the frame, a small rectangle plays a different clip.",
    "Part of the picture is covered by a small second video.",
    "There is an inset in this video; find it.",
    "A small patch of the picture has nothing to do with the scene behind it.",
    "Search the whole frame for the small video within the video.",
    "Over this video runs a second one, much smaller.",
)

SPATIO_TEMPORAL_NEEDLE = (
    "For some time, part of the frame shows a different video.",
    "At one point another clip appears in a region of the picture and then disappears.",
    "During a limited time, a rectangle within the frame plays something else.",
    "A second video pops up in one area of this video for a while.",
    "Find the moment, and the place in the frame, at which other contents are shown.",
    "An inset is visible during one stretch of this video.",
    "Watch for a region of the picture that is replaced by another scene for a time.",
    "Some of this video is covered for a while by a clip that does not belong to it.",
    "There is a window with different contents that opens and closes during this video.",
    "For a certain span, one part of the picture departs from the rest.",
    "A clip was laid over one area of this video, but not for its whole length.",
    "At some time, somewhere in the frame, a foreign clip can be seen.",
)

GRID = (
    "This video is divided into {rows} rows and {columns} columns of small videos. Look at row {row}, column {column}.",
    "Many clips play side by side here. Find the one in row {row} and column {column}, counted from the top left.",
    "In this {rows} by {columns} grid of clips, consider the cell in row {row}, column {column}.",
    "Consider the clip at row {row}, column {column} of the grid; rows count from the top, columns from the left.",
    "The frame is a grid of clips. Go to the {row_th} row from the top and the {column_th} column from the left.",
    "Counting from 1 at the top left, look at the cell in column {column} of row {row}.",
    "Pick out the clip that lies in the {column_th} column of the {row_th} row.",
    "Of the {cells} clips shown at once, look at the one in row {row}, column {column}.",
    "Look only at the cell where the {row_th} row meets the {column_th} column.",
    "The picture is split into {cells} cells. Turn to row {row}, column {column}, with row 1 at the top.",
    "Among the clips arranged in {rows} rows and {columns} columns, find the {row_th} row, {column_th} column.",
    "Concentrate on one cell of this grid of videos: row {row}, column {column}.",
)

IS_THERE = (
    "Is this anywhere in the video: “{event}”?",
    "Does the video show “{event}” at some point?",
    "“{event}” Can this be seen in the video, yes or no?",
    "Yes or no: is there a scene like “{event}” in this video?",
    "Does any part of the video fit the words “{event}”?",
    "Look through the whole video. Does “{event}” appear in it?",
    "Someone says that this is shown here: {event}. Are they right?",
    "Is a scene described by “{event}” hidden in this video?",
    "Tell me whether “{event}” occurs in the video.",
    "Would you find “{event}” if you watched all of this video?",
    "Is it true that the video contains “{event}”?",
    "Check whether the video has this in it: {event}. Does it?",
)

WHEN = (
    "From which second to which second is this shown: {event}?",
    "When, in seconds, does “{event}” begin and end?",
    "“{event}” Between which two times, in seconds, can this be seen?",
    "Give the start and the end, in seconds, of the scene “{event}”.",
    "At which seconds does the video turn to “{event}”, and when does it turn away?",
    "Find the stretch that shows “{event}” and give its time in seconds.",
    "During which seconds of the video is “{event}” visible?",
    "Locate “{event}” in time: from when to when, in seconds?",
    "Name the time span, in seconds, in which one sees “{event}”.",
    "Which part of the video, in seconds from its beginning, fits “{event}”?",
    "State in seconds when the passage with “{event}” starts and stops.",
    "This is shown for a while: {event}. Since which second, and until which?",
)

WHERE = (
    "Where in the frame is this shown: {event}?",
    "In which place of the picture can “{event}” be seen?",
    "“{event}” Where does it lie in the frame?",
    "A small window shows “{event}”. Where is it?",
    "Find the part of the frame that shows “{event}” and say where it is.",
    "Locate “{event}” within the picture.",
    "At what position in the frame does “{event}” play?",
    "Look for “{event}” in the picture. Where do you find it?",
    "Name the place in the frame at which one sees “{event}”.",
    "Which area of the picture is taken up by “{event}”?",
    "Say where the inset with “{event}” was placed.",
    "Point out where in this video's frame “{event}” appears.",
)

HOW_MANY = (
    "How many times does the video show “{event}”?",
    "How often is this seen in the video: {event}?",
    "Count the passages that show “{event}”.",
    "“{event}” How many such passages are there in the video?",
    "Say in how many separate places the video cuts to “{event}”.",
    "What is the number of times that “{event}” appears in this video?",
    "The video may turn to “{event}” several times, or never. How many times?",
    "Give the number of scenes that fit “{event}”.",
    "Watch for “{event}” and count. Which number do you get?",
    "On how many occasions does this come up: {event}?",
    "Tell me the count of insertions that show “{event}”.",
    "With a single number: how many times can “{event}” be seen?",
)

WHICH_ORDER = (
    "In which order does the video show these scenes? Answer with their numbers.",
    "Put these scenes into the order of their appearance, by number.",
    "These scenes are all in the video. Give their numbers in order of time.",
    "Sort these scenes by when they are shown, and list their numbers.",
    "Which of these scenes comes first, which next, and so on? Give the numbers.",
    "Arrange the numbers of these scenes as they follow one another in the video.",
    "From the earliest to the latest, what are the numbers of these scenes?",
    "Give the sequence, in numbers, in which the video turns to these scenes.",
    "The list below is in no particular order. By number, what order does the video have?",
    "Bring these scenes into chronological order and answer with the numbers.",
    "When watching the video, in what order are these scenes met? Name the numbers.",
    "List the numbers of these scenes, beginning with the one that is shown earliest.",
)

WHICH_CELL = (
    "In which row and column of the grid is this shown: {event}?",
    "Which cell shows “{event}”? Give its row and column, counted from the top left.",
    "“{event}” At which row and which column is this clip?",
    "Find the cell with “{event}” and name its row and its column.",
    "Many clips play side by side. Where is “{event}”, by row and column?",
    "Give the row, from the top, and the column, from the left, of the clip “{event}”.",
    "Search the grid for “{event}”. What are its row and its column?",
    "One cell of this grid fits “{event}”. Say which, by row and column.",
    "By row and column, both from 1, where does “{event}” play?",
    "Look over all cells. Which row and column has the one that shows “{event}”?",
    "State the place in the grid of the clip described by “{event}”: its row and its column.",
    "Counting rows downwards and columns to the right, where can “{event}” be seen?",
)

NTH_CLIP = (
    "Look at the {nth} clip.",
    "Consider the {nth} clip of this video.",
    "Go to the {nth} of the clips.",
    "Turn to the clip that comes {nth}.",
    "Of the clips in this video, take the {nth}.",
    "Counting the clips from the beginning, find the {nth}.",
    "Skip to the {nth} clip in the row.",
    "Attend only to the {nth} clip.",
    "Pick the {nth} clip, in order of time.",
    "Watch for the {nth} clip that is shown.",
    "Let us talk about the {nth} clip.",
    "Think of the {nth} clip that you see.",
)

ASK_CONTENT = (
    "What is shown there?",
    "What can be seen there?",
    "Describe what it shows.",
    "Say what happens there.",
    "What are its contents?",
    "What does one see there?",
    "Tell me what it shows.",
    "Briefly describe it.",
    "What is going on there?",
    "What is the subject of it?",
    "Put into words what is seen there.",
    "Give a short description of it.",
)

PICTURE = (
    "What does this picture show?",
    "Describe this image.",
    "What can be seen in this picture?",
    "Say in a sentence what this image shows.",
    "Give a short description of this picture.",
    "Write a caption for this image.",
    "Put the contents of this picture into words.",
    "Tell me what you see in the image.",
    "What is in this picture?",
    "Briefly, what does this image show?",
    "What is the scene in this picture?",
    "What does one see in this image?",
)

PLAIN = (
    "What does this video show?",
    "Describe this video.",
    "What is happening in this clip?",
    "Say in a sentence what can be seen here.",
    "Give a short description of this video.",
    "What is this clip about?",
    "Tell me what you see in the video.",
    "Put the contents of this clip into words.",
    "What can be seen in this video?",
    "Briefly, what goes on in this clip?",
    "Write a caption for this video.",
    "What is the scene in this video?",
)

CHOOSE = (
    "Answer with the letter of the right option.",
    "Which of the options is right? Give its letter only.",
    "Choose one option and reply with its letter.",
    "Reply with A, B, C or D.",
)

THEN = ("Then", "After that", "Next", "Afterwards", "Following this", "Subsequently")
