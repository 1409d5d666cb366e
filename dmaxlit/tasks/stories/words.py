"""The words of the stories: names, things and places."""

_NAMES = """
Aaron Abel Abigail Ada Adele Adrian Agatha Agnes Ahmed Aidan Ainsley Aisha Akira Alan Alana Alastair Alba Albert Aldo
Alec Alejandro Alessia Alexa Alexander Alfonso Alfred Ali Alice Alina Alison Allegra Alma Alonso Alvin Alyssa Amanda
Amara Amelia Amir Amos Amy Ana Anders Andrea Andrew Angela Angus Anika Anita Anna Annette Anselm Anton Antonia Anya
Archie Ariel Arjun Armand Arne Arnold Artem Arthur Asha Ashley Asta Astrid Audrey August Augustine Aurelia Aurora Ava
Avery Axel Ayumi Azra Barbara Barnaby Barry Basil Bastian Beatrice Becky Belinda Bella Ben Benedict Benjamin Bernard
Bernice Bertha Beth Betty Bianca Bill Birgit Bjorn Blanche Bob Bonnie Boris Brandon Brenda Brett Brian Bridget Bruce
Bruno Bryan Caleb Callum Calvin Cameron Camila Candice Carl Carla Carlos Carmen Carol Caroline Casper Cassandra
Catherine Cecil Cedric Celeste Celia Cesar Chad Chandra Charles Chiara Chiyo Chloe Chris Christa Christian Cindy Clara
Clarence Clarissa Claude Clement Cleo Clifford Clyde Colette Colin Conrad Constance Cora Cornelia Craig Crystal
Cynthia Cyrus Dagmar Daisy Dale Damian Damon Dana Daniel Dante Daphne Dario Darren David Dean Deborah Deepa Delia
Denise Dennis Derek Desmond Dexter Diana Diego Dimitri Dina Dirk Dolores Dominic Donald Donna Dora Doris Dorothy
Douglas Drew Duncan Dylan Earl Ebba Eddie Edgar Edith Eduardo Edwin Egon Eileen Elaine Eleanor Elena Eli Elias Elijah
Elisa Elizabeth Ella Ellen Elliot Elmer Eloise Elsa Elvira Emil Emilia Emily Emma Emmett Enrique Enzo Eric Erica Erik
Erin Ernest Erwin Estelle Esther Ethan Eugene Eugenia Eunice Eva Evan Evelyn Everett Ezra Fabian Faith Farid Fatima
Faye Felicia Felix Ferdinand Fernando Finn Fiona Fletcher Flora Florian Floyd Frances Francesca Francis Frank Franz
Fred Frederick Freya Frida Fritz Gabriel Gail Gareth Gavin Gemma Genevieve Geoffrey George Georgia Gerald Geraldine
Gertrude Gilbert Gina Giovanni Gisela Giulia Glenn Gloria Gordon Grace Gregory Greta Griffin Guido Gustav Gwen Hamid
Hana Hannah Hans Harold Harriet Harry Harvey Hassan Hazel Heather Hector Heidi Heinrich Helen Helga Henry Herbert
Herman Hideo Hilda Holly Horace Howard Hubert Hugo Humphrey Ian Ibrahim Ida Ignacio Igor Ilse Imani Imogen Inez Ingrid
Irene Iris Irma Irving Isaac Isabel Isla Ismail Ivan Ivana Ivy Jack Jacob Jada Jake James Jamila Jan Jane Janet Jared
Jasmine Jason Jasper Javier Jean Jeffrey Jemima Jenny Jeremy Jerome Jesse Jessica Jill Joan Joanna Joaquin Jocelyn
Joel Johanna John Jolene Jonas Jordan Jorge Joseph Josephine Joshua Josie Joy Juan Judith Julia Julian Julius June
Justin Kai Karen Karim Karl Kate Katrina Kayla Keiko Keith Kelly Kelvin Kenji Kenneth Kevin Khalid Kim Kira Kirsten
Klaus Kofi Kurt Kyle Lance Lara Larissa Larry Lars Laura Lauren Laurence Lea Leander Leila Lena Leo Leon Leonard
Leslie Leticia Lewis Liam Lila Lillian Lily Linda Lionel Lisa Lloyd Logan Lola Lorena Lorenzo Loretta Lorna Louis
Louise Lucas Lucia Lucille Lucy Ludwig Luis Luna Luther Lydia Lynn Mabel Madeleine Maggie Magnus Maja Malik Manfred
Manuel Marcel Marco Marcus Margaret Marge Maria Marianne Marie Marilyn Marina Mario Marlene Marlon Marta Martin Marvin
Mary Mateo Matilda Matthew Maud Maurice Max Maxine Maya Megan Mei Melanie Melissa Melvin Mercy Meredith Mia Michael
Miguel Mila Mildred Millie Milo Mina Minerva Miriam Mitchell Mohan Molly Mona Monica Morris Moses Murat Muriel Myra
Myron Nadia Nadine Nancy Naomi Natalie Nathan Nathaniel Neil Nell Nelson Nia Nicolas Nigel Nikita Nina Noah Nobuko
Noel Nolan Noor Nora Norbert Norman Nuria Octavia Odette Olaf Olga Olive Oliver Olivia Omar Opal Oriana Orlando Oscar
Osman Oswald Otto Owen Pablo Paige Pamela Pascal Patience Patricia Patrick Paul Paula Paulina Pavel Pearl Pedro Penny
Percy Perry Peter Petra Philip Philippa Phoebe Phyllis Pierre Piotr Priscilla Priya Prudence Quentin Rachel Rafael Raj
Ralph Ramon Ramona Randall Rashid Raul Raymond Rebecca Reggie Regina Reiko Reuben Rhea Rhoda Ricardo Richard Rita
Robert Roberta Robin Roderick Rodney Roger Roland Rolf Roman Ronald Rosa Rosalind Rose Rosemary Rowan Roxanne Ruby
Rudolf Rufus Rupert Russell Ruth Ryan Sabina Sadie Sakura Salim Sally Salma Salvador Samantha Samir Samuel Sandra
Santiago Sara Sean Sebastian Selma Serena Sergio Seth Shannon Sharon Sheila Shirley Sidney Siegfried Sigrid Silas
Simon Sofia Solomon Sonia Spencer Stanley Stefan Stella Stephanie Steven Stuart Sunita Susan Sven Sylvia Tabitha
Takumi Tamara Tania Tariq Ted Teresa Terrence Tessa Thea Thelma Theo Theodore Thomas Tiffany Tilda Tim Timothy Tina
Tobias Toby Todd Tom Tony Tracy Travis Trevor Tyler Ulrich Uma Umberto Ursula Valerie Vanessa Vaughn Vera Vernon
Veronica Vicky Victor Vincent Viola Violet Virgil Virginia Vivian Vladimir Wade Walker Wallace Walter Wanda Warren
Wendell Wendy Werner Wesley Wilbur Wilfred Willa William Wilma Winifred Winston Wyatt Xavier Xenia Yara Yasmin Yolanda
Yoshi Yuki Yusuf Yvette Yvonne Zack Zahra Zara Zelda Zena Zoe Zoltan
"""
_THINGS = """
acorns albums almonds anchors anvils apples apricots aprons arrows axes backpacks badges bagels balances balloons
balls bananas bandages banjos banners barrels basins baskets batteries beads beakers beanies beans bells belts benches
berries bibs binders binoculars biscuits blankets blocks blouses boards boats bobbins bolts bonnets books boots
bottles bouquets bowls bows bowties bracelets bricks brochures brooches brooms brushes buckets buckles bulbs bumpers
buns buoys butterflies buttons cabinets cables cactuses cakes calculators calendars cameras candles canoes canvases
caps cards carpets carrots cases caskets cassettes catalogs cauldrons cellos chains chairs charms charts checkers
cherries chestnuts chests chips chisels chocolates clamps clarinets clips clocks cloths clovers coasters coats
coconuts coins collars combs comics compasses cones consoles containers cookies corks cots couches coupons crackers
cradles cranes crayons cribs croissants crowns crystals cubes cucumbers cupcakes cups curtains cushions cylinders
cymbals daisies dandelions darts dates decks desks diamonds diaries discs dishes dolls dominoes donuts doors doughnuts
dresses drums dumplings earrings easels eclairs eggs emeralds engines envelopes erasers eyeglasses fabrics fans
faucets feathers fences fenders fiddles figs figurines files filters fireworks flags flashlights flasks flowers flutes
foils folders footballs forks fossils frames freezers fridges funnels gadgets gaskets gems geodes glasses globes
gloves gnomes goblets gongs gourds grapes grills guitars gumdrops hammers hammocks handbags handles hangers harnesses
harps hatchets hats hazelnuts headbands headphones helmets herbs hinges hoes hooks hoops horns hoses hourglasses
igloos inks irons jackets jars jellies jerseys jewels jugs kayaks kegs kettles keyboards keys kimonos kites knives
labels ladders ladles lamps lanterns laptops lassos lattices leashes leggings lemons lenses lentils letters levers
lilacs lilies limes lockets locks locomotives looms lozenges lutes macaroons magazines magnets mallets mandolins
mangoes mantels maps maracas marbles markers mats mattresses medals melons menus meteorites microphones microscopes
mirrors mittens modems monitors mops mosaics motors mousetraps muffins mugs mushrooms nails napkins necklaces
nectarines needles nets newspapers noodles notebooks nuggets nuts oars oboes olives omelets onions opals oranges
orchids ornaments ovens overalls paddles paintings pajamas palettes pamphlets pancakes panels pans papers parachutes
parasols parcels pastries patches pawns peaches peanuts pearls pears pebbles pedals pencils pendants pendulums
pennants pens peppers petals photos pianos pies pigments pillows pins pipes pistons pitchers pixels planks plants
plaques plates pliers plugs plums pockets poems poles postcards posters potatoes pots pouches pretzels printers prisms
prizes projectors propellers pulleys pumpkins pumps puppets purses puzzles quills quilts rackets radios radishes rafts
raisins rakes raspberries razors recipes rectangles reels remotes ribbons rings rivets robots rocks ropes roses rubies
rugs rulers sacks saddles sails sandals sandwiches sapphires satchels saucers saws saxophones scarves scepters
scissors scooters screws scrolls sculptures seashells seeds sensors sequins shawls shelves shields shirts shoes shorts
shovels shutters sickles signs skateboards skates skillets skirts skis slates sledges sleds sleeves slippers snowballs
snowshoes soaps socks sofas spades spanners spatulas spears spheres spices spindles sponges spools spoons springs
squares squashes stamps staplers stars statues stencils stickers sticks stockings stones stools stoves strawberries
straws strings suitcases sundials sunflowers sunglasses sweaters swings switches swords tables tablets tambourines
tangerines tapes tarts tassels teacups teapots telescopes thermometers thimbles thistles threads thrones tiaras
tickets ties tiles tires toasters tokens tomatoes tongs tools toothbrushes torches towels toys tractors trampolines
trams triangles tricycles tripods trombones trophies trousers trucks trumpets trunks tubas tubes tulips tunics turbans
turbines turnips tuxedos tweezers typewriters ukuleles umbrellas uniforms urns valves vans vases veils vests videos
vines violins wafers waffles wagons wallets walnuts wands wardrobes washers watches weathervanes wedges wheelbarrows
wheels whisks whistles wigs willows windows wires wreaths wrenches xylophones yachts yams yoyos zippers zithers
"""
_PLACES = """
abbey academy airfield airport alley allotment amphitheater aquarium arcade archive arena armory attic auditorium
avenue bakery balcony ballroom bank banquet bar barn barracks basement bay bazaar beach bistro boathouse bookshop
boutique brewery bridge brook building bungalow bunker cabin cafe camp campsite canal canteen canyon carnival casino
castle cathedral cave cellar cemetery chalet chamber chapel church cinema circus cliff clinic cloister club coast
cockpit college colony compound concert convent convention corner corral corridor cottage court courtyard creek
crossing cupola dairy den depot desert diner dock dormitory driveway dune embassy estate exhibition factory fair farm
farmhouse ferry festival field forest foundry fountain foyer friary gallery garage garden garrison gate gazebo glacier
glade granary greenhouse grocery grotto grove guesthouse gym hall hallway hangar harbor harvest hedge highway hill
homestead hospital hostel hotel hut icehouse inn island jail jetty junction jungle kiosk kitchen laboratory lagoon
lake landing laundry lawn ledge library lighthouse lobby lodge loft lounge manor mansion marina market marsh mausoleum
meadow metro mews mill mine mint moat monastery monument moor mosque motel mountain museum nursery oasis observatory
office opera orchard outpost pagoda palace pantry parade park parlor party pasture path patio pavilion peak penthouse
pharmacy picnic pier plateau playground plaza pond pool porch port prairie precinct promenade pub pyramid quarry race
raceway railway ramp ranch refinery refuge reservoir residence restaurant retreat ridge rink river riverbank riverside
road roundabout ruin runway salon sanctuary sauna sawmill school seminar shack shed shelter shop shore shrine sidewalk
silo spa spring square stable stadium stage staircase stall station steeple stockroom store stream street studio
suburb subway summit supermarket swamp synagogue tavern temple tent terrace theater tollbooth tower town track trail
trench tundra tunnel turnpike university valley vault veranda viaduct villa village vineyard volcano warehouse
watchtower waterfall waterfront wedding well wharf windmill woodland workshop yard zoo
"""
NAMES = tuple(_NAMES.split())
THINGS = tuple(_THINGS.split())
PLACES = tuple(_PLACES.split())
